#include "mamba2/cuda/context.h"

#include <functional>
#include <limits>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/base/log.h"
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/norm.h"
#include "mamba2/cuda/packed_weight.h"

namespace mamba2::cuda {
namespace {

/// Whether rows of f32 share memory with a tensor.
bool overlap(const WaitingNorm& norm, const Tensor& tensor) {
  const auto* const first = static_cast<const float*>(norm.x.data);
  const auto* const last = first + (norm.rows - 1) * norm.x.stride + norm.width;
  const auto* const other = tensor.as<float>();
  const auto* const other_last = other + (tensor.size(0) - 1) * tensor.stride(0) + tensor.size(1);
  return std::less<>()(first, other_last) && std::less<>()(other, last);
}

}  // namespace

Context::Context(Precision wanted, std::optional<int> chosen)
    : device(chosen), recorder(memory.stream(), [this] { finish_norm(); }), precision_(wanted) {
  std::string why;
  blas = BlasLt::open(why);
  if (blas == nullptr) log_warning("{}: large products run on slow kernels of our own", why);
  arrivals_ = static_cast<unsigned*>(memory.allocate(most_fused_groups * sizeof(unsigned)));
  check(cudaMemsetAsync(arrivals_, 0, most_fused_groups * sizeof(unsigned), stream()), "zero");
}

Context::~Context() {
  if (scratch_ != nullptr) memory.free(scratch_);
  if (arrivals_ != nullptr) memory.free(arrivals_);
  for (const Exchange& exchange : exchanges_) memory.free(exchange.words);
}

void Context::settle() {
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  device.make_current();
  recorder.flush();
  finish_norm();            // of ops that were not recorded
  follows_product = false;  // what comes now is not a launch of ours
}

void Context::settle_quietly() noexcept {
  try {
    device.make_current();
    recorder.flush();
    finish_norm();
  } catch (...) {
    failure_ = std::current_exception();
  }
  follows_product = false;
}

std::optional<WaitingNorm> Context::take_norm(const mamba2::Linear& op) {
  if (!waiting_) return std::nullopt;
  const WaitingNorm& norm = *waiting_;
  const bool same_rows = op.x.data == norm.out.data && op.x.size(0) == norm.rows && op.x.size(1) == norm.width &&
                         op.x.stride(0) == norm.out.stride;
  const bool takes_along = norm.rows <= few_rows_limit;  // else it is launched before the product
  if (!same_rows || (takes_along && overlap(norm, op.out))) {
    finish_norm();
    return std::nullopt;
  }
  return std::exchange(waiting_, std::nullopt);
}

void Context::finish_norm() {
  if (!waiting_) return;
  launch_norm(*std::exchange(waiting_, std::nullopt));
}

void Context::launch_norm(const WaitingNorm& waiting, const Rows& rounded) {
  RmsNorm norm;
  norm.rows = waiting.rows;
  norm.width = waiting.width;
  norm.eps = waiting.eps;
  norm.x = waiting.x;
  norm.weight = waiting.weight;
  norm.out = waiting.out;
  norm.rounded = rounded;
  rms_norm(norm, stream());
}

std::uint64_t* Context::exchange(const DecodeShape& shape) {
  DecodeShape of_widths;  // the rest does not count
  of_widths.hidden = shape.hidden;
  of_widths.heads = shape.heads;
  of_widths.state_size = shape.state_size;
  for (const Exchange& exchange : exchanges_)
    if (exchange.shape == of_widths) return exchange.words;
  const std::size_t bytes = static_cast<std::size_t>(DecodeExchange(shape).words) * sizeof(std::uint64_t);
  auto* const words = static_cast<std::uint64_t*>(memory.allocate(bytes));
  exchanges_.push_back({of_widths, words});
  check(cudaMemsetAsync(words, 0, bytes, stream()), "zero");
  return words;
}

void* Context::scratch(std::size_t bytes) {
  if (bytes <= scratch_bytes_) return scratch_;
  recorder.invalidate();
  if (scratch_ != nullptr) memory.free(scratch_);
  scratch_ = nullptr;
  scratch_bytes_ = 0;
  scratch_ = memory.allocate(bytes);
  scratch_bytes_ = bytes;
  return scratch_;
}

CudaWeight::CudaWeight(WeightRole role, const Tensor& host, DType asked, DType held, Context& context)
    : PreparedWeight(host.shape, asked),
      context_(context),
      counts_(role != WeightRole::embedding && held == DType::f32) {
  HostTensor converted;
  Tensor from = host;
  if (host.dtype != held || !host.contiguous()) {
    converted = HostTensor(held, host.shape);
    convert(host, converted);
    from = converted;
  }
  HostBuffer packed;
  if (is_packed(held)) {
    packed = HostBuffer(packed_bytes(held, host.size(0), host.size(1)));
    pack(from, {static_cast<std::byte*>(packed.data()), packed.size()});
    from = Tensor(packed.data(), DType::u8, {static_cast<std::int64_t>(packed.size())});
  }
  bytes_ = from.bytes();
  void* const memory = context.memory.allocate(bytes_);
  matrix = Tensor(memory, held, host.shape, {.kind = DeviceKind::cuda});
  try {
    context.memory.from_host(from, Tensor(memory, from.dtype, from.shape, matrix.device));
  } catch (...) {
    context.memory.free(matrix.data);
    throw;
  }
  if (counts_) ++context_.f32_matrices;
  context_.recorder.invalidate();
}

CudaWeight::~CudaWeight() {
  context_.settle_quietly();
  if (counts_) --context_.f32_matrices;
  context_.recorder.forget();
  context_.memory.free(matrix.data);
}

int extent(std::int64_t value, const char* what) {
  require(value <= std::numeric_limits<int>::max(), "CUDA: {} is {}, expected at most {}", what, value,
          std::numeric_limits<int>::max());
  return static_cast<int>(value);
}

Batch batch_of(const mamba2::Batch& batch) {
  return {.sequence_start = batch.sequence_start.as<std::int32_t>(),
          .slots = batch.slots.as<std::int32_t>(),
          .sequences = extent(batch.sequences, "the number of sequences"),
          .tokens = batch.tokens};
}

Activation activation_of(mamba2::Activation act) {
  switch (act) {
    case mamba2::Activation::none: return Activation::none;
    case mamba2::Activation::silu: return Activation::silu;
    case mamba2::Activation::gelu: return Activation::gelu;
    case mamba2::Activation::gelu_tanh: return Activation::gelu_tanh;
    case mamba2::Activation::relu: return Activation::relu;
    case mamba2::Activation::tanh: return Activation::tanh;
    case mamba2::Activation::sigmoid: return Activation::sigmoid;
  }
  return Activation::none;
}

}  // namespace mamba2::cuda
