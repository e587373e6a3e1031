#include "mamba2/cpu/kernels/parts.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {

Kernels kernels() {
  Kernels made{};
  add_linear(made);
  add_norms(made);
  add_activation(made);
  add_conv(made);
  add_ssd(made);
  add_attention(made);
  return made;
}

}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
