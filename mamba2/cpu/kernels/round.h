#pragma once

#include "mamba2/cpu/kernels/vec.h"

// f32 rounded to bf16, sixteen at a time whatever the registers' width.
namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

using Words16 = std::uint32_t __attribute__((vector_size(64)));
using Halves16 = std::uint16_t __attribute__((vector_size(32)));

/// The upper halves of the results, to nearest with ties to even; NaN stays NaN.  bits are those of floats.
MAMBA2_INLINE Words16 rounded_to_bf16(Words16 bits) {
  const Words16 nearest = bits + 0x7FFFU + ((bits >> 16) & 1U);
  const Words16 is_nan = (Words16)((bits & 0x7FFFFFFFU) > 0x7F800000U);
  return ((is_nan & (bits | 0x00400000U)) | (~is_nan & nearest)) >> 16;
}

/// count <= 16 floats, zeros after them.
MAMBA2_INLINE Words16 load_words(const float* from, std::int64_t count) {
  if (count >= 16) return load_unaligned<Words16>(from);
  std::uint32_t lane[16] = {};
  if (count > 0) __builtin_memcpy(lane, from, static_cast<unsigned long>(count) * sizeof(float));
  return load_unaligned<Words16>(lane);
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
