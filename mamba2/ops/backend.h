#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mamba2/ops/communicator.h"
#include "mamba2/ops/ops.h"

namespace mamba2 {

class Backend;

/// What a weight matrix is used for, so that a backend can pack it for that.
enum class WeightRole : std::uint8_t { linear, embedding, embedding_and_linear };

/// A weight matrix in the form its backend wants; opaque to everybody else.  Must not outlive its backend, nor the host
/// tensor it was made from (a backend may use the mapped file as it is).
class PreparedWeight {
 public:
  PreparedWeight(Shape matrix_shape, DType held_as) : shape(matrix_shape), dtype(held_as) {}
  PreparedWeight(const PreparedWeight&) = delete;
  PreparedWeight& operator=(const PreparedWeight&) = delete;
  virtual ~PreparedWeight() = default;
  /// Memory of its own, beyond the mapped file.
  virtual std::size_t bytes() const = 0;

  const Shape shape;  ///< (rows, columns)
  const DType dtype;  ///< what the elements are held as
};

/// Memory on a backend's device, freed by it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Backend& owner, void* memory, std::size_t bytes) : owner_(&owner), memory_(memory), bytes_(bytes) {}
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();
  void* data() const { return memory_; }
  std::size_t size() const { return bytes_; }

 private:
  Backend* owner_ = nullptr;
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

/// A tensor and the device memory it lies in.
struct DeviceTensor {
  Buffer buffer;
  Tensor view;
  operator const Tensor&() const { return view; }  // NOLINT(google-explicit-constructor): it is one
};

/// One implementation of the ops on one device.  A backend belongs to one thread at a time; calls run in order, and
/// results are on the host only after download().
class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  /// "reference", "cpu" or "cuda".
  virtual std::string_view name() const = 0;
  virtual Device device() const = 0;
  /// Of hidden states, logits and, unless asked otherwise, the state: f32, and f64 for the reference in double.
  virtual DType activation_dtype() const = 0;
  /// Tokens of a prompt that should go through a model's layers at a time, where a token's buffers take so many bytes:
  /// enough for matrix products to run at their full rate, few enough that work space stays small beside the weights.
  virtual std::int64_t piece_tokens(std::int64_t bytes_per_token);

  /// Makes it one of several backends that compute a model together, a rank each.
  void join(std::unique_ptr<Communicator> communicator) { communicator_ = std::move(communicator); }
  int ranks() const { return communicator_ ? communicator_->size() : 1; }
  /// Null where it computes alone.
  Communicator* communicator() const { return communicator_.get(); }

  /// Takes a host matrix (rows, columns) of any floating dtype.  held_as is what its elements are to be multiplied as;
  /// throws Error naming the dtypes where the backend can't.  The host memory must stay for the result's lifetime.
  virtual std::unique_ptr<PreparedWeight> prepare(WeightRole role, const Tensor& host, DType held_as) = 0;

  /// A zeroed tensor on the device.  Throws Error that says how many bytes were wanted where there is no memory.
  DeviceTensor allocate(DType dtype, const Shape& shape);
  /// A small host tensor (norm weights, biases, A_log, ...) on the device, converted to dtype.
  DeviceTensor upload(const Tensor& host, DType dtype);

  /// Host to device and back; shapes and dtypes equal, both contiguous.
  virtual void upload(const Tensor& host, const Tensor& on_device) = 0;
  virtual void download(const Tensor& on_device, const Tensor& host) = 0;
  /// A download in two parts, so that work may be asked for in between: what a small tensor without gaps holds now,
  /// and the oldest of those started, in a host tensor of its dtype and shape.
  virtual void start_download(const Tensor& on_device);
  virtual void finish_download(const Tensor& host);
  /// Device to device, shapes and dtypes equal; the outermost dimension may be strided.
  virtual void copy(const Tensor& from, const Tensor& to) = 0;
  virtual void zero(const Tensor& tensor) = 0;

  void run(const Embedding& op);
  void run(const Linear& op);
  void run(const RmsNorm& op);
  void run(const GatedRmsNorm& op);
  void run(const CausalConv& op);
  void run(const TimeStep& op);
  void run(const SsdScan& op);
  void run(const GatedActivation& op);
  void run(const Activate& op);
  void run(const Mixer& op);
  void run(const MixerLayers& op);
  /// How many tokens' inputs should have room beside the states (PendingInputs) where such batches are decoded; 0:
  /// none.
  virtual std::int64_t pending_room(const MixerStepShape& /*shape*/) const { return 0; }
  void run(const SettleState& op);
  void run(const Rope& op);
  void run(const Attention& op);
  void run(const GatherRows& op);
  void run(const CrossEntropy& op);
  /// Whether ChooseToken is there; without it logits are downloaded and tokens chosen on the host.
  virtual bool chooses_tokens() const { return false; }
  void run(const ChooseToken& op);
  void run(const AddOverRanks& op);
  void run(const NormOverRanks& op);
  void run(const Broadcast& op);

 protected:
  friend class Buffer;
  virtual void* allocate_bytes(std::size_t bytes) = 0;  // zeroed
  virtual void free_bytes(void* memory, std::size_t bytes) noexcept = 0;

  // Operands are checked already.
  virtual void compute(const Embedding& op) = 0;
  virtual void compute(const Linear& op) = 0;
  virtual void compute(const RmsNorm& op) = 0;
  virtual void compute(const GatedRmsNorm& op) = 0;
  virtual void compute(const CausalConv& op) = 0;
  virtual void compute(const TimeStep& op) = 0;
  virtual void compute(const SsdScan& op) = 0;
  virtual void compute(const GatedActivation& op) = 0;
  virtual void compute(const Activate& op) = 0;
  virtual void compute(const Mixer& op);
  virtual void compute(const MixerLayers& op);
  virtual void compute(const SettleState& op);
  virtual void compute(const Rope& op) = 0;
  virtual void compute(const Attention& op) = 0;
  virtual void compute(const GatherRows& op) = 0;
  virtual void compute(const CrossEntropy& op) = 0;
  virtual void compute(const ChooseToken& op);
  // By default over host memory.
  virtual void compute(const AddOverRanks& op);
  virtual void compute(const NormOverRanks& op);
  virtual void compute(const Broadcast& op);

 private:
  void compute_with_norm_over_ranks(const Mixer& op);

  std::unique_ptr<Communicator> communicator_;
  std::deque<HostTensor> started_downloads_;
};

/// How to open a device; unknown names are errors.
struct DeviceOptions {
  std::string device = "auto";  ///< "auto", "reference", "cpu", "cuda"
  int threads = 0;              ///< 0: one a core
  /// On the host: equal bits whatever the batch and the split of a prompt.  On cuda: everything in f32; equal bits for
  /// up to eight sequences that decode together, to rounding otherwise.
  bool deterministic = false;
};

/// Opens a backend.  Defined by the composition root (mamba2/devices), the one place that knows them all.
std::unique_ptr<Backend> make_backend(const DeviceOptions& options);

/// Opens a backend for each of so many ranks and joins them: on cuda a GPU each, on the host threads, which share those
/// of the options.  Throws Error where there are fewer GPUs, or what joins them is missing.
std::vector<std::unique_ptr<Backend>> make_backends(const DeviceOptions& options, int ranks);

}  // namespace mamba2
