#pragma once

// A register of floats, as wide as the instruction set that this file is compiled for.  Everything here has internal
// linkage: a kernel file must leave no code behind that the linker could merge with another file's, since that file may
// be meant for a lesser processor (tests/cpu/no_shared_code.cmake looks).

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if !defined(MAMBA2_CPU_ISA)
#error "MAMBA2_CPU_ISA names the namespace of the instruction set"
#endif

// Vectors pass between functions of one file only, all of them inlined, so that their calling convention is moot.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

using Floats = float __attribute__((vector_size(lanes * 4)));
using Ints = std::int32_t __attribute__((vector_size(lanes * 4)));
using Floats4 = float __attribute__((vector_size(16)));
using Floats8 = float __attribute__((vector_size(32)));

#define MAMBA2_INLINE inline __attribute__((always_inline))

using Halves = std::uint16_t __attribute__((vector_size(lanes * 2)));

/// A vector from memory that is aligned to an element alone, and back.
template <class Vector>
MAMBA2_INLINE Vector load_unaligned(const void* from) {
  Vector value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}
template <class Vector>
MAMBA2_INLINE void store_unaligned(void* to, Vector value) {
  __builtin_memcpy(to, &value, sizeof(value));
}

MAMBA2_INLINE Floats load(const float* from) {
  return load_unaligned<Floats>(from);
}
MAMBA2_INLINE void store(float* to, Floats value) {
  store_unaligned(to, value);
}
/// Not Floats{} + value: turning -0 into 0, that is an addition.
MAMBA2_INLINE Floats broadcast(float value) {
#if defined(__AVX512F__)
  return _mm512_set1_ps(value);
#elif defined(__AVX2__)
  return _mm256_set1_ps(value);
#else
  return Floats{value, value, value, value};
#endif
}

/// The first `count` lanes (fewer than there are), 0 in the others.
MAMBA2_INLINE Floats load_some(const float* from, std::int64_t count) {
  float lane[lanes] = {};
  __builtin_memcpy(lane, from, static_cast<unsigned long>(count) * sizeof(float));
  return load(lane);
}
MAMBA2_INLINE void store_some(float* to, Floats value, std::int64_t count) {
  float lane[lanes];
  store(lane, value);
  __builtin_memcpy(to, lane, static_cast<unsigned long>(count) * sizeof(float));
}

/// a * b + c, rounded once where the processor can.
MAMBA2_INLINE Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

MAMBA2_INLINE Floats select(Ints mask, Floats yes, Floats no) {
  return (Floats)((mask & (Ints)yes) | (~mask & (Ints)no));
}
/// a < b ? a : b, so a NaN in either is lost to b: write minimum(bound, x) to keep x's.
MAMBA2_INLINE Floats minimum(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#elif defined(__SSE2__)
  return _mm_min_ps(a, b);
#else
  return select(a < b, a, b);
#endif
}
/// a > b ? a : b, as minimum.
MAMBA2_INLINE Floats maximum(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return select(a > b, a, b);
#endif
}

// Folding a register to four lanes, in one order everywhere.
MAMBA2_INLINE Floats4 fold4(Floats value) {
#if defined(__AVX512F__)
  const Floats8 half = __builtin_shufflevector(value, value, 0, 1, 2, 3, 4, 5, 6, 7) +
                       __builtin_shufflevector(value, value, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif defined(__AVX2__)
  return __builtin_shufflevector(value, value, 0, 1, 2, 3) + __builtin_shufflevector(value, value, 4, 5, 6, 7);
#else
  return value;
#endif
}

/// The sums of the lanes of four registers.
MAMBA2_INLINE Floats4 sums_of_lanes(Floats a, Floats b, Floats c, Floats d) {
  const Floats4 a4 = fold4(a), b4 = fold4(b), c4 = fold4(c), d4 = fold4(d);
  const Floats4 ab = __builtin_shufflevector(a4, b4, 0, 4, 1, 5) + __builtin_shufflevector(a4, b4, 2, 6, 3, 7);
  const Floats4 cd = __builtin_shufflevector(c4, d4, 0, 4, 1, 5) + __builtin_shufflevector(c4, d4, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}
/// The same additions in the same order as sums_of_lanes.
MAMBA2_INLINE float sum_of_lanes(Floats a) {
  return sums_of_lanes(a, a, a, a)[0];
}
MAMBA2_INLINE float max_of_lanes(Floats a) {
  float largest = a[0];
  for (int i = 1; i < lanes; ++i)
    if (a[i] > largest) largest = a[i];
  return largest;
}

/// Elements of a weight matrix as they lie in memory.
struct Bf16 {
  std::uint16_t bits;
};
struct F16 {
  std::uint16_t bits;
};

MAMBA2_INLINE Floats load_wide(const float* from) {
  return load(from);
}

MAMBA2_INLINE Floats load_wide(const Bf16* from) {
#if defined(__AVX512F__)
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))),
                                   16);
#elif defined(__AVX2__)
  return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))), 16);
#else
  using Unsigned = std::uint32_t __attribute__((vector_size(lanes * 4)));
  return (Floats)(__builtin_convertvector(load_unaligned<Halves>(from), Unsigned) << 16);
#endif
}

MAMBA2_INLINE Floats load_wide(const F16* from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  // The fraction and exponent moved to their places are the value over 2^112, subnormals too; infinity and NaN take the
  // largest exponent by hand.
  using Unsigned = std::uint32_t __attribute__((vector_size(lanes * 4)));
  const Unsigned bits = __builtin_convertvector(load_unaligned<Halves>(from), Unsigned);
  const Unsigned magnitude = (bits & 0x7FFFU) << 13;
  const Unsigned finite = (Unsigned)((Floats)magnitude * 0x1p112F);
  const Unsigned special = (Unsigned)((bits & 0x7C00U) == 0x7C00U);
  return (Floats)(((bits & 0x8000U) << 16) | (special & (magnitude | 0x7F800000U)) | (~special & finite));
#endif
}

template <class Weight>
MAMBA2_INLINE Floats load_wide_some(const Weight* from, std::int64_t count) {
  Weight lane[lanes] = {};
  __builtin_memcpy(lane, from, static_cast<unsigned long>(count) * sizeof(Weight));
  return load_wide(lane);
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
