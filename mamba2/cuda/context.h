#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mamba2/cuda/activation.h"
#include "mamba2/cuda/blas_lt.h"
#include "mamba2/cuda/cuda_backend.h"
#include "mamba2/cuda/decode_plan.h"
#include "mamba2/cuda/device.h"
#include "mamba2/cuda/memory.h"
#include "mamba2/cuda/pending_plan.h"
#include "mamba2/cuda/recorder.h"
#include "mamba2/ops/backend.h"

/// The ops in terms of kernels.  Operands are checked already.
namespace mamba2::cuda {

/// A norm that waits for the product of its rows, which may take it along.
struct WaitingNorm {
  std::int64_t rows = 0;
  int width = 0;
  ConstRows x;
  const float* weight = nullptr;
  float eps = 1e-5F;
  Rows out;
};

/// What every op works with.
class Context {
 public:
  /// device: absent, it is the calling thread's.
  Context(Precision wanted, std::optional<int> device);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context();

  cudaStream_t stream() const { return memory.stream(); }
  /// Puts everything asked for so far on the stream.  Throws Error for what a launch says.
  void settle();
  /// The same where nothing can be thrown: the next settle() does.
  void settle_quietly() noexcept;
  /// Takes a norm to be launched before the next op, or with it.
  void let_wait(const WaitingNorm& norm) { waiting_ = norm; }
  /// The norm that waits, if its rows are this tensor and this product can take it along: it is the caller's now.
  std::optional<WaitingNorm> take_norm(const mamba2::Linear& op);
  /// Launches the norm that waits.
  void finish_norm();
  /// rounded: where its rows are left in bf16 too; data null: nowhere.
  void launch_norm(const WaitingNorm& waiting, const Rows& rounded = {});
  /// At least so many bytes of work space, contents free, until the next call.
  void* scratch(std::size_t bytes);
  /// The words through which the blocks of decode_layers exchange values: a model's own, since words that another
  /// shape left there might be taken for its own.
  std::uint64_t* exchange(const DecodeShape& shape);
  /// A zero for each group of each sequence of a batch, zero again after each mixer step.
  unsigned* arrivals() const { return arrivals_; }
  /// Large products and scans may round their inputs to 16 bits.
  bool rounds() const { return precision_ == Precision::fast && f32_matrices == 0; }

  const ChosenDevice device;
  Memory memory;
  Recorder recorder;
  std::unique_ptr<BlasLt> blas;  // null where the library is not there
  bool follows_product = false;  // the op launched last was a Linear
  int f32_matrices = 0;          // that products are made with, now

 private:
  std::optional<WaitingNorm> waiting_;
  std::exception_ptr failure_;
  Precision precision_;
  void* scratch_ = nullptr;
  std::size_t scratch_bytes_ = 0;
  unsigned* arrivals_ = nullptr;
  struct Exchange {
    DecodeShape shape;
    std::uint64_t* words;
  };
  std::vector<Exchange> exchanges_;
};

/// A weight matrix (rows, columns) on the device.
class CudaWeight : public PreparedWeight {
 public:
  /// host is of dtype `held`, or is converted to it.
  CudaWeight(WeightRole role, const Tensor& host, DType asked, DType held, Context& context);
  ~CudaWeight() override;
  std::size_t bytes() const override { return bytes_; }

  Tensor matrix;  // of a quantised dtype: data is what pack() makes, and no view of it but the whole is one

 private:
  Context& context_;
  std::size_t bytes_;
  bool counts_;  // among the context's f32_matrices
};

/// Of a weight that the backend prepared.
inline const Tensor& matrix_of(const PreparedWeight& weight) {
  return static_cast<const CudaWeight&>(weight).matrix;
}

void embedding(Context& context, const mamba2::Embedding& op);
void linear(Context& context, const mamba2::Linear& op);
void rms_norm(Context& context, const mamba2::RmsNorm& op);
void gated_rms_norm(Context& context, const mamba2::GatedRmsNorm& op);
void causal_conv(Context& context, const mamba2::CausalConv& op);
void time_step(Context& context, const mamba2::TimeStep& op);
void ssd_scan(Context& context, const mamba2::SsdScan& op);
void gated_activation(Context& context, const mamba2::GatedActivation& op);
void activate(Context& context, const mamba2::Activate& op);
void rope(Context& context, const mamba2::Rope& op);
void attention(Context& context, const mamba2::Attention& op);
void gather_rows(Context& context, const mamba2::GatherRows& op);
void cross_entropy(Context& context, const mamba2::CrossEntropy& op);
void choose_token(Context& context, const mamba2::ChooseToken& op);
void add_over_ranks(Context& context, Communicator& ranks, const mamba2::AddOverRanks& op);
void norm_over_ranks(Context& context, Communicator& ranks, const mamba2::NormOverRanks& op);
void broadcast(Context& context, Communicator& ranks, const mamba2::Broadcast& op);
void settle_state(Context& context, const mamba2::SettleState& op);
/// False where no fused form takes this mixer: then nothing was done.
bool fused_mixer(Context& context, const mamba2::Mixer& op);

/// Views of tensors as kernels take them.
inline ConstRows const_rows(const Tensor& tensor) {
  return tensor.empty() ? ConstRows{} : ConstRows{tensor.data, tensor.stride(0)};
}
inline Rows rows(const Tensor& tensor) {
  return {tensor.data, tensor.stride(0)};
}
inline const float* floats(const Tensor& tensor) {
  return tensor.empty() ? nullptr : tensor.as<float>();
}
/// An extent that kernels count in int.
int extent(std::int64_t value, const char* what);
Batch batch_of(const mamba2::Batch& batch);
Activation activation_of(mamba2::Activation act);

}  // namespace mamba2::cuda
