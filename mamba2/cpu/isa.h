#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "mamba2/tensor/dtype.h"

namespace mamba2::cpu {

/// Instruction sets that the kernels are built for, weakest first.  portable is what every processor of the
/// architecture has (SSE2 on x86-64, Neon on aarch64), avx512_vnni is avx512 with dot products of bytes,
/// avx512_bf16 that with dot products of bf16, amx that with products of tiles of bf16.
enum class Isa : std::uint8_t { portable, avx2, avx512, avx512_vnni, avx512_bf16, amx };

std::string_view name(Isa isa);

/// Those that were built in and that this processor and operating system run, weakest first; never empty.
std::vector<Isa> available_isas();

/// The strongest available, or the one that the environment variable MAMBA2_ISA names.  Throws Error where that name
/// is unknown or the processor lacks it.
Isa choose_isa();

struct Kernels;
struct QuantizedKernels;
/// What multiplies with an instruction set that is available.
Kernels kernels_for(Isa isa);
QuantizedKernels quantized_kernels_for(Isa isa, DType dtype);

}  // namespace mamba2::cpu
