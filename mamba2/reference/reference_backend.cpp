#include "mamba2/reference/reference_backend.h"

#include <cstring>
#include <new>

#include "mamba2/base/error.h"
#include "mamba2/reference/attention.h"
#include "mamba2/reference/linear.h"
#include "mamba2/reference/loss.h"
#include "mamba2/reference/mixer.h"
#include "mamba2/reference/norm.h"
#include "mamba2/tensor/quantized.h"

namespace mamba2 {
namespace {

/// The matrix as stored, in place; or converted once where another dtype was asked for.
class ReferenceWeight : public PreparedWeight {
 public:
  ReferenceWeight(const Tensor& host, DType held_as) : PreparedWeight(host.shape, held_as), matrix(host) {
    if (held_as == host.dtype) return;
    converted_ = HostTensor(held_as, host.shape);
    convert(host, converted_);
    matrix = converted_;
  }
  std::size_t bytes() const override { return converted_.view().empty() ? 0 : converted_.view().bytes(); }

  Tensor matrix;

 private:
  HostTensor converted_;
};

const Tensor& matrix_of(const PreparedWeight* weight) {
  return static_cast<const ReferenceWeight*>(weight)->matrix;
}

template <class T, class Real>
class ReferenceBackend : public Backend {
 public:
  std::string_view name() const override { return "reference"; }
  Device device() const override { return {}; }
  DType activation_dtype() const override { return sizeof(T) == 8 ? DType::f64 : DType::f32; }

  std::unique_ptr<PreparedWeight> prepare(WeightRole, const Tensor& host, DType held_as) override {
    const bool can_hold = is_floating(held_as) || held_as == host.dtype || can_quantize(held_as);
    require((is_floating(host.dtype) || is_quantized(host.dtype)) && can_hold,
            "the reference can't hold a {} matrix as {}", mamba2::name(host.dtype), mamba2::name(held_as));
    return std::make_unique<ReferenceWeight>(host, held_as);
  }

  using Backend::upload;
  void upload(const Tensor& host, const Tensor& on_device) override { convert(host, on_device); }
  void download(const Tensor& on_device, const Tensor& host) override { convert(on_device, host); }
  void copy(const Tensor& from, const Tensor& to) override { convert(from, to); }
  void zero(const Tensor& tensor) override {
    const Tensor rows = tensor;
    for (std::int64_t i = 0; i < rows.size(0); ++i) {
      const Tensor inner = rows[i];
      std::memset(inner.data, 0, inner.bytes());
    }
  }

 protected:
  void* allocate_bytes(std::size_t bytes) override {
    void* memory = ::operator new (std::max<std::size_t>(bytes, 1), std::align_val_t{64}, std::nothrow);
    require(memory != nullptr, "out of memory: {} bytes are wanted", bytes);
    std::memset(memory, 0, bytes);
    return memory;
  }
  void free_bytes(void* memory, std::size_t) noexcept override { ::operator delete (memory, std::align_val_t{64}); }

  using Backend::compute;
  void compute(const Embedding& op) override { reference::embedding<T>(op, matrix_of(op.weight)); }
  void compute(const Linear& op) override { reference::linear<T, Real>(op, matrix_of(op.weight)); }
  void compute(const RmsNorm& op) override { reference::rms_norm<T, Real>(op); }
  void compute(const GatedRmsNorm& op) override { reference::gated_rms_norm<T, Real>(op); }
  void compute(const CausalConv& op) override { reference::causal_conv<T, Real>(op); }
  void compute(const TimeStep& op) override { reference::time_step<T, Real>(op); }
  void compute(const SsdScan& op) override { reference::ssd_scan<T, Real>(op); }
  void compute(const GatedActivation& op) override { reference::gated_activation<T, Real>(op); }
  void compute(const Activate& op) override { reference::activate<T, Real>(op); }
  void compute(const Rope& op) override { reference::rope<T, Real>(op); }
  void compute(const Attention& op) override { reference::attention<T, Real>(op); }
  void compute(const GatherRows& op) override { reference::gather_rows<T>(op); }
  void compute(const CrossEntropy& op) override { reference::cross_entropy<T, Real>(op); }
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend(DType precision, DType arithmetic) {
  if (precision == DType::f64 && arithmetic == DType::f64) return std::make_unique<ReferenceBackend<double, double>>();
  if (precision == DType::f32 && arithmetic == DType::f64) return std::make_unique<ReferenceBackend<float, double>>();
  if (precision == DType::f32 && arithmetic == DType::f32) return std::make_unique<ReferenceBackend<float, float>>();
  fail("the reference holds values in f32 or f64 and computes in that or in f64, not in {} and {}", name(precision),
       name(arithmetic));
}

}  // namespace mamba2
