#include "mamba2/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>

#include "mamba2/base/error.h"
#include "mamba2/cpu/context.h"
#include "mamba2/cpu/memory.h"
#include "mamba2/cpu/quantized_linear.h"
#include "mamba2/cpu/quantized_weight.h"
#include "mamba2/tensor/quantized.h"

namespace mamba2 {
namespace cpu {

Context::Context(int threads, Isa chosen, ScanForm form, Bf16Products products)
    : isa(chosen),
      scan_form(form),
      kernels(kernels_for(chosen)),
      pool(threads),
      linear_machine{isa, pool.threads(), l2_cache_bytes(), products},
      scratch_(static_cast<std::size_t>(pool.threads())) {
  const std::vector<Isa> available = available_isas();
  require(std::find(available.begin(), available.end(), isa) != available.end(), "this processor lacks {}", name(isa));
}

void Context::reserve_scratch(std::int64_t floats) {
  const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
  for (HostBuffer& buffer : scratch_)
    if (buffer.size() < bytes) buffer = HostBuffer(bytes);
}

void* Context::shared_scratch(std::size_t bytes) {
  if (shared_scratch_.size() < bytes) shared_scratch_ = HostBuffer(bytes);
  return shared_scratch_.data();
}

float* Context::scratch(int worker) const {
  return static_cast<float*>(scratch_[static_cast<std::size_t>(worker)].data());
}

}  // namespace cpu

namespace {

class CpuBackend : public Backend {
 public:
  CpuBackend(int threads, cpu::Isa isa, cpu::ScanForm form, cpu::Bf16Products products)
      : context_(threads, isa, form, products) {}

  std::string_view name() const override { return "cpu"; }
  Device device() const override { return {}; }
  DType activation_dtype() const override { return DType::f32; }

  std::unique_ptr<PreparedWeight> prepare(WeightRole role, const Tensor& host, DType held_as) override;

  using Backend::upload;
  void upload(const Tensor& host, const Tensor& on_device) override { convert(host, on_device); }
  void download(const Tensor& on_device, const Tensor& host) override { convert(on_device, host); }
  void copy(const Tensor& from, const Tensor& to) override { convert(from, to); }
  void zero(const Tensor& tensor) override;

 protected:
  void* allocate_bytes(std::size_t bytes) override;
  void free_bytes(void* memory, std::size_t bytes) noexcept override { cpu::free_memory(memory, bytes); }

  using Backend::compute;
  void compute(const Embedding& op) override {
    is_quantized(op.weight->dtype) ? cpu::quantized_embedding(context_, op) : cpu::embedding(context_, op);
  }
  void compute(const Linear& op) override {
    is_quantized(op.weight->dtype) ? cpu::quantized_linear(context_, op) : cpu::linear(context_, op);
  }
  void compute(const RmsNorm& op) override { cpu::rms_norm(context_, op); }
  void compute(const GatedRmsNorm& op) override { cpu::gated_rms_norm(context_, op); }
  void compute(const CausalConv& op) override { cpu::causal_conv(context_, op); }
  void compute(const TimeStep& op) override { cpu::time_step(context_, op); }
  void compute(const SsdScan& op) override { cpu::ssd_scan(context_, op); }
  void compute(const GatedActivation& op) override { cpu::gated_activation(context_, op); }
  void compute(const Activate& op) override { cpu::activate(context_, op); }
  void compute(const Mixer& op) override {
    if (cpu::is_fusable(op))
      cpu::fused_mixer(context_, op);
    else
      Backend::compute(op);
  }
  void compute(const Rope& op) override { cpu::rope(context_, op); }
  void compute(const Attention& op) override { cpu::attention(context_, op); }
  void compute(const GatherRows& op) override { cpu::gather_rows(context_, op); }
  void compute(const CrossEntropy& op) override { cpu::cross_entropy(context_, op); }

 private:
  cpu::Context context_;
};

std::unique_ptr<PreparedWeight> CpuBackend::prepare(WeightRole, const Tensor& host, DType held_as) {
  require(host.rank() == 2, "a weight is {}, expected a matrix", to_string(host.shape));
  const bool can_hold = is_floating(held_as) || held_as == host.dtype || can_quantize(held_as);
  require((is_floating(host.dtype) || is_quantized(host.dtype)) && can_hold,
          "the cpu backend can't hold a {} matrix as {}", mamba2::name(host.dtype), mamba2::name(held_as));
  if (is_quantized(held_as)) return std::make_unique<cpu::QuantizedWeight>(host, held_as, context_.isa, context_.pool);
  switch (held_as) {
    case DType::bf16: return std::make_unique<cpu::CpuWeight>(host, held_as, cpu::WeightType::bf16, context_);
    case DType::f16: return std::make_unique<cpu::CpuWeight>(host, held_as, cpu::WeightType::f16, context_);
    default: return std::make_unique<cpu::CpuWeight>(host, DType::f32, cpu::WeightType::f32, context_);
  }
}

void CpuBackend::zero(const Tensor& tensor) {
  if (tensor.contiguous()) {
    if (tensor.bytes() != 0) std::memset(tensor.data, 0, tensor.bytes());
    return;
  }
  for (std::int64_t i = 0; i < tensor.size(0); ++i) zero(tensor[i]);
}

void* CpuBackend::allocate_bytes(std::size_t bytes) {
  std::byte* const memory = cpu::allocate_memory(bytes);
  std::memset(memory, 0, bytes);
  return memory;
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int threads, cpu::ScanForm form, cpu::Bf16Products products) {
  return make_cpu_backend(threads, cpu::choose_isa(), form, products);
}

std::unique_ptr<Backend> make_cpu_backend(int threads, cpu::Isa isa, cpu::ScanForm form, cpu::Bf16Products products) {
  return std::make_unique<CpuBackend>(threads, isa, form, products);
}

}  // namespace mamba2
