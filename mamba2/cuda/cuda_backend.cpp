#include "mamba2/cuda/cuda_backend.h"

#include <fmt/core.h>

#include <type_traits>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/context.h"
#include "mamba2/cuda/device.h"
#include "mamba2/cuda/fingerprint.h"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/nccl.h"
#include "mamba2/cuda/packed_weight.h"
#include "mamba2/cuda/pending_plan.h"
#include "mamba2/cuda/piece_tokens.h"
#include "mamba2/cuda/run_layers.h"
#include "mamba2/cuda/run_prompt.h"
#include "mamba2/tensor/quantized.h"

namespace mamba2 {
namespace {

constexpr int least_compute_capability = 80;

class CudaBackend : public Backend {
 public:
  CudaBackend(cuda::Precision precision, std::optional<int> device, std::int64_t least_pending_bytes)
      : context_(precision, device),
        leaves_pending_(precision == cuda::Precision::fast),
        least_pending_bytes_(least_pending_bytes) {}
  ~CudaBackend() override = default;

  std::string_view name() const override { return "cuda"; }
  Device device() const override {
    return {.kind = DeviceKind::cuda, .index = static_cast<std::int8_t>(context_.device.index())};
  }
  DType activation_dtype() const override { return DType::f32; }
  std::int64_t piece_tokens(std::int64_t bytes_per_token) override {
    return cuda::piece_tokens(bytes_per_token, static_cast<std::int64_t>(settled().memory.free_bytes()));
  }

  std::int64_t pending_room(const MixerStepShape& shape) const override {
    const bool pays = leaves_pending_ && cuda::pending_pays(shape, least_pending_bytes_) &&
                      cuda::pending_step_is_tuned(cuda::current_device().compute_capability);
    return pays ? cuda::pending_room : 0;
  }

  std::unique_ptr<PreparedWeight> prepare(WeightRole role, const Tensor& host, DType held_as) override;

  using Backend::upload;
  void upload(const Tensor& host, const Tensor& on_device) override { settled().memory.from_host(host, on_device); }
  void download(const Tensor& on_device, const Tensor& host) override { settled().memory.to_host(on_device, host); }
  void start_download(const Tensor& on_device) override { settled().memory.start_to_host(on_device); }
  void finish_download(const Tensor& host) override {
    context_.device.make_current();
    context_.memory.finish_to_host(host);
  }
  bool chooses_tokens() const override { return true; }
  void copy(const Tensor& from, const Tensor& to) override { settled().memory.copy(from, to); }
  void zero(const Tensor& tensor) override { settled().memory.zero(tensor); }

 protected:
  void* allocate_bytes(std::size_t bytes) override;
  void free_bytes(void* memory, std::size_t bytes) noexcept override;

  void compute(const Embedding& op) override { enqueue(op, cuda::embedding); }
  void compute(const Linear& op) override { enqueue(op, cuda::linear); }
  void compute(const RmsNorm& op) override { enqueue(op, cuda::rms_norm); }
  void compute(const GatedRmsNorm& op) override { enqueue(op, cuda::gated_rms_norm); }
  void compute(const CausalConv& op) override { enqueue(op, cuda::causal_conv); }
  void compute(const TimeStep& op) override { enqueue(op, cuda::time_step); }
  void compute(const SsdScan& op) override { enqueue(op, cuda::ssd_scan); }
  void compute(const GatedActivation& op) override { enqueue(op, cuda::gated_activation); }
  void compute(const Activate& op) override { enqueue(op, cuda::activate); }
  void compute(const Mixer& op) override {
    enqueue(op, [this](cuda::Context& context, const Mixer& mixer) {
      if (!cuda::fused_mixer(context, mixer)) Backend::compute(mixer);
    });
  }
  void compute(const MixerLayers& op) override;
  void compute(const SettleState& op) override { enqueue(op, cuda::settle_state); }
  void compute(const Rope& op) override { enqueue(op, cuda::rope); }
  void compute(const Attention& op) override { enqueue(op, cuda::attention); }
  void compute(const GatherRows& op) override { enqueue(op, cuda::gather_rows); }
  void compute(const CrossEntropy& op) override { enqueue(op, cuda::cross_entropy); }
  void compute(const ChooseToken& op) override { enqueue(op, cuda::choose_token); }
  void compute(const AddOverRanks& op) override { enqueue_shared(op, cuda::add_over_ranks); }
  void compute(const NormOverRanks& op) override { enqueue_shared(op, cuda::norm_over_ranks); }
  void compute(const Broadcast& op) override { enqueue_shared(op, cuda::broadcast); }

 private:
  void compute_one_by_one(const MixerLayers& op);
  template <class Op, class Launch>
  void enqueue(const Op& op, Launch launch);
  template <class Op>
  void enqueue_shared(const Op& op, void (*launch)(cuda::Context&, Communicator&, const Op&)) {
    enqueue(op, [this, launch](cuda::Context& context, const Op& now) { launch(context, *communicator(), now); });
  }
  /// What can't be replayed is not recorded, nor is what lies between.
  bool records() const { return communicator() == nullptr || communicator()->recordable(); }
  cuda::Context& settled();

  cuda::Context context_;
  bool leaves_pending_;
  std::int64_t least_pending_bytes_;
  std::vector<std::uint64_t> words_;
  cuda::DecodeLayers layers_;  // described last
};

/// Hands an op to the recorder; a part of another op, which is being launched, runs at once.
template <class Op, class Launch>
void CudaBackend::enqueue(const Op& op, Launch launch) {
  auto run = [this, launch](const Op& now) {
    constexpr bool is_product = std::is_same_v<Op, Linear>;
    if constexpr (!is_product) context_.finish_norm();  // a product may take it along
    launch(context_, now);
    context_.follows_product = is_product;
  };
  if (context_.recorder.launching()) return run(op);
  context_.device.make_current();
  if (!records()) return run(op);
  words_.clear();
  cuda::Fingerprint(words_).add(op);
  context_.recorder.add(words_, [&] { return cuda::Recorder::Launch([run, op] { run(op); }); });
}

/// One kernel where it takes the layers and pays; a prompt's with rows of 16 bits; else their parts.
void CudaBackend::compute(const MixerLayers& op) {
  const bool takes = cuda::describe_layers(op, cuda::matrix_of, layers_) && cuda::decode_layers_pays(layers_.shape) &&
                     cuda::decode_layers_takes(layers_.shape);
  if (!takes) return compute_one_by_one(op);
  enqueue(layers_, [](cuda::Context& context, const cuda::DecodeLayers& layers) {
    cuda::DecodeLayers now = layers;
    now.exchange = context.exchange(layers.shape);
    cuda::decode_layers(now, context.stream());
  });
}

void CudaBackend::compute_one_by_one(const MixerLayers& op) {
  context_.device.make_current();
  for (const MixerLayer& layer : op.layers) {
    if (cuda::prompt_layer_takes(context_, layer))
      enqueue(layer, cuda::prompt_layer);
    else
      Backend::compute(MixerLayers{{&layer, 1}});
  }
}

/// The context after everything asked for is on the stream.
cuda::Context& CudaBackend::settled() {
  context_.settle();
  return context_;
}

void CudaBackend::free_bytes(void* memory, std::size_t) noexcept {
  context_.settle_quietly();
  context_.memory.free(memory);
}

/// What the device holds where held_as was asked for, in rows of so many columns.
DType device_dtype(DType held_as, std::int64_t columns) {
  if (cuda::is_packed(held_as) && cuda::linear_packed_holds(held_as, columns)) return held_as;
  if (is_quantized(held_as)) return DType::f16;
  return held_as == DType::f64 ? DType::f32 : held_as;
}

std::unique_ptr<PreparedWeight> CudaBackend::prepare(WeightRole role, const Tensor& host, DType held_as) {
  require(host.rank() == 2, "a weight is {}, expected a matrix", to_string(host.shape));
  const bool can_hold = is_floating(held_as) || held_as == host.dtype || can_quantize(held_as);
  require((is_floating(host.dtype) || is_quantized(host.dtype)) && can_hold,
          "the cuda backend can't hold a {} matrix as {}", mamba2::name(host.dtype), mamba2::name(held_as));
  const DType held = device_dtype(held_as, host.size(1));
  cuda::Context& context = settled();
  if (!is_quantized(held_as) || host.dtype == held_as)
    return std::make_unique<cuda::CudaWeight>(role, host, held_as, held, context);
  const HostTensor quantized(held_as, host.shape);
  convert(host, quantized);
  return std::make_unique<cuda::CudaWeight>(role, quantized, held_as, held, context);
}

void* CudaBackend::allocate_bytes(std::size_t bytes) {
  void* const memory = settled().memory.allocate(bytes);
  cuda::check(cudaMemsetAsync(memory, 0, bytes, context_.stream()), "zero");
  return memory;
}

/// Empty where a GPU can be used; else why not.
std::string problem_with_gpu(cudaDeviceProp& properties, std::optional<int> device = std::nullopt) {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) {
    (void)cudaGetLastError();
    return cudaGetErrorString(status);
  }
  if (devices == 0) return "there is no GPU";
  int index = device.value_or(0);
  if ((!device && cudaGetDevice(&index) != cudaSuccess) || cudaGetDeviceProperties(&properties, index) != cudaSuccess)
    return cudaGetErrorString(cudaGetLastError());
  if (10 * properties.major + properties.minor < least_compute_capability)
    return fmt::format("{} has compute capability {}.{}, expected 8.0 or later", properties.name, properties.major,
                       properties.minor);
  return {};
}

}  // namespace

cuda::Summary cuda::describe() {
  Summary summary;
  summary.built = true;
  cudaDeviceProp properties{};
  summary.problem = problem_with_gpu(properties);
  summary.usable = summary.problem.empty();
  if (!summary.usable) return summary;
  constexpr double gibibyte = 1024.0 * 1024.0 * 1024.0;
  summary.gpu = fmt::format("{}, compute capability {}.{}, {:.1f} GiB", properties.name, properties.major,
                            properties.minor, static_cast<double>(properties.totalGlobalMem) / gibibyte);
  std::string why;
  summary.blas = BlasLt::open(why) != nullptr ? "cuBLASLt" : why;
  (void)cudaGetDeviceCount(&summary.gpus);
  summary.nccl = describe_nccl();
  summary.tuned_shapes = "decode: head_dim 64, state_size 64, 128 or 256, conv_kernel 2 to 4";
  if (properties.major == 9) summary.tuned_shapes += "; prompts in 16 bits: head_dim 64, state_size 64 or 128";
  summary.tuned_shapes += "; weights kept in q8_0, q4_0, q4_k and q6_k";
  return summary;
}

std::unique_ptr<Backend> make_cuda_backend(cuda::Precision precision, std::int64_t least_pending_bytes) {
  cudaDeviceProp properties{};
  const std::string problem = problem_with_gpu(properties);
  require(problem.empty(), "device is 'cuda', but {}", problem);
  return std::make_unique<CudaBackend>(precision, std::nullopt, least_pending_bytes);
}

std::vector<std::unique_ptr<Backend>> make_cuda_backends(cuda::Precision precision, int ranks) {
  cudaDeviceProp properties{};
  std::string problem = problem_with_gpu(properties, 0);
  require(problem.empty(), "device is 'cuda', but {}", problem);
  int gpus = 0;
  cuda::check(cudaGetDeviceCount(&gpus), "count the GPUs");
  require(gpus >= ranks, "a model split over {} ranks needs as many GPUs, this machine has {}", ranks, gpus);
  std::vector<int> devices;
  std::vector<std::unique_ptr<Backend>> backends;
  for (int device = 0; device < ranks; ++device) {
    problem = problem_with_gpu(properties, device);
    require(problem.empty(), "GPU {} can't be used: {}", device, problem);
    devices.push_back(device);
  }
  const cuda::CurrentDevice callers(0);  // each backend makes its own the thread's
  std::vector<std::unique_ptr<Communicator>> communicators = cuda::make_nccl_communicators(devices);
  for (const int device : devices) {
    backends.push_back(std::make_unique<CudaBackend>(precision, device, cuda::least_pending_bytes));
    backends.back()->join(std::move(communicators[static_cast<std::size_t>(device)]));
  }
  return backends;
}

}  // namespace mamba2
