#include "mamba2/base/error.h"
#include "mamba2/cpu/cpu_backend.h"
#include "mamba2/cuda/cuda_backend.h"
#include "mamba2/ops/backend.h"
#include "mamba2/reference/reference_backend.h"

namespace mamba2 {

std::unique_ptr<Backend> make_backend(const DeviceOptions& options) {
  if (options.device == "reference") return make_reference_backend();
  if (options.device == "auto" || options.device == "cpu")
    return options.deterministic
               ? make_cpu_backend(options.threads, cpu::ScanForm::sequential, cpu::Bf16Products::always)
               : make_cpu_backend(options.threads);
  if (options.device == "cuda")
    return make_cuda_backend(options.deterministic ? cuda::Precision::exact : cuda::Precision::fast);
  fail("device is '{}', expected auto, reference, cpu or cuda", printable(options.device));
}

}  // namespace mamba2
