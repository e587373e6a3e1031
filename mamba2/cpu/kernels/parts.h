#pragma once

#include "mamba2/cpu/kernels.h"

// The kernel files of one instruction set, each of which fills in its own.
namespace mamba2::cpu::MAMBA2_CPU_ISA {

void add_linear(Kernels& kernels);
void add_norms(Kernels& kernels);
void add_activation(Kernels& kernels);
void add_conv(Kernels& kernels);
void add_ssd(Kernels& kernels);
void add_attention(Kernels& kernels);

}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
