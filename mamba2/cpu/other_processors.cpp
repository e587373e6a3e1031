// In place of x86.cpp: the kernels that every processor of the architecture runs, on aarch64 with Neon.
#include "mamba2/cpu/isa.h"
#include "mamba2/cpu/kernels.h"
#include "mamba2/cpu/quantized_kernels.h"

namespace mamba2::cpu {

std::vector<Isa> available_isas() {
  return {Isa::portable};
}

Kernels kernels_for(Isa) {
  return portable::kernels();
}

QuantizedKernels quantized_kernels_for(Isa, DType dtype) {
  return portable::quantized_kernels(dtype);
}

}  // namespace mamba2::cpu
