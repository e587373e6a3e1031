#pragma once

#include "mamba2/cpu/kernels/vec.h"

// Products of bytes in 32-bit lanes: a lane holds four columns of one row of the weights, unsigned, and the same lane
// of the other operand four columns of x, signed and at most 127 in magnitude.
namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

using Unsigned = std::uint32_t __attribute__((vector_size(lanes * 4)));
using Shorts = std::int16_t __attribute__((vector_size(lanes * 4)));

MAMBA2_INLINE Ints broadcast_int(std::int32_t value) {
  return Ints{} + value;
}

/// The sums of products of pairs of 16-bit numbers, one sum a lane.
MAMBA2_INLINE Ints multiply_pairs(Ints a, Ints b) {
#if defined(__AVX512BW__)
  return (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (Ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
  const int16x8_t a16 = (int16x8_t)a, b16 = (int16x8_t)b;
  return (Ints)vpaddq_s32(vmull_s16(vget_low_s16(a16), vget_low_s16(b16)), vmull_high_s16(a16, b16));
#else
  return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

// The signed bytes 0 and 2, and 1 and 3, of each lane as pairs of 16-bit numbers.
MAMBA2_INLINE Ints even_bytes(Ints bytes) {
  return (Ints)((Shorts)bytes << 8 >> 8);
}
MAMBA2_INLINE Ints odd_bytes(Ints bytes) {
  return (Ints)((Shorts)bytes >> 8);
}

// GroupSum adds up the products of a group of columns with one scale, scaled() multiplies by it.  group_scale<at>() is
// byte `at` of each lane as such a scale.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)

// Products are added in pairs, in 16 bits, which the caller must know to be enough for the steps that it takes.  A
// scale is a pair of equal numbers, so that scaling costs nothing: pairs must be folded anyhow.
constexpr bool sums_in_16_bits = true;

struct GroupSum {
  Shorts pairs = {};
  MAMBA2_INLINE void add(Unsigned w, Ints x) {
#if defined(__AVX512BW__)
    pairs += (Shorts)_mm512_maddubs_epi16((__m512i)w, (__m512i)x);
#else
    pairs += (Shorts)_mm256_maddubs_epi16((__m256i)w, (__m256i)x);
#endif
  }
  MAMBA2_INLINE Ints scaled(Ints scale) const {
    return multiply_pairs((Ints)pairs, scale);
  }
  MAMBA2_INLINE Ints plain() const {
    return scaled(broadcast_int(0x00010001));
  }
};

/// sum plus the products with signed w, up to 128 in magnitude: a pair's sum just fits once x has taken w's sign.
MAMBA2_INLINE Ints add_signed(Ints sum, Unsigned w, Ints x) {
  GroupSum group;
#if defined(__AVX512BW__)
  const __mmask64 negative = _mm512_movepi8_mask((__m512i)w);
  const __m512i turned = _mm512_mask_sub_epi8((__m512i)x, negative, _mm512_setzero_si512(), (__m512i)x);
  group.add((Unsigned)_mm512_abs_epi8((__m512i)w), (Ints)turned);
#else
  group.add((Unsigned)_mm256_abs_epi8((__m256i)w), (Ints)_mm256_sign_epi8((__m256i)x, (__m256i)w));
#endif
  return sum + group.plain();
}

/// Bytes of each lane where `pattern` says; 0x80 makes 0.
MAMBA2_INLINE Ints shuffled(Unsigned bytes, std::uint32_t pattern, std::uint32_t step) {
  const Unsigned lane = {};
  Unsigned places = lane + pattern;
  for (int i = 0; i < lanes; ++i) places[i] += step * static_cast<std::uint32_t>(i % 4);
#if defined(__AVX512BW__)
  return (Ints)_mm512_shuffle_epi8((__m512i)bytes, (__m512i)places);
#else
  return (Ints)_mm256_shuffle_epi8((__m256i)bytes, (__m256i)places);
#endif
}
template <int at>
MAMBA2_INLINE Ints group_scale(Unsigned bytes) {
  return shuffled(bytes, 0x80008000U | at << 16 | at, 0x00040004U);
}
template <int at>
MAMBA2_INLINE Ints signed_group_scale(Unsigned bytes) {
  return (Ints)((Shorts)shuffled(bytes, 0x00800080U | at << 24 | at << 8, 0x04000400U) >> 8);
}

#elif defined(__aarch64__)

// The same with Neon.  Weights are signed bytes here: all but q8_0's, which are signed, are at most 63.
constexpr bool sums_in_16_bits = true;

/// The sums of products of pairs of bytes, each pair in 16 bits.
MAMBA2_INLINE Shorts multiply_bytes(Unsigned w, Ints x) {
  const int8x16_t w8 = (int8x16_t)w, x8 = (int8x16_t)x;
  return (Shorts)vpaddq_s16(vmull_s8(vget_low_s8(w8), vget_low_s8(x8)), vmull_high_s8(w8, x8));
}

struct GroupSum {
  Shorts pairs = {};
  MAMBA2_INLINE void add(Unsigned w, Ints x) { pairs += multiply_bytes(w, x); }
  MAMBA2_INLINE Ints scaled(Ints scale) const { return multiply_pairs((Ints)pairs, scale); }
  MAMBA2_INLINE Ints plain() const { return (Ints)vpaddlq_s16((int16x8_t)pairs); }
};

/// sum plus the products with signed w, up to 128 in magnitude: a pair's sum just fits.
MAMBA2_INLINE Ints add_signed(Ints sum, Unsigned w, Ints x) {
  return (Ints)vpadalq_s16((int32x4_t)sum, (int16x8_t)multiply_bytes(w, x));
}

template <int at>
MAMBA2_INLINE Ints group_scale(Unsigned bytes) {
  const Unsigned scale = bytes >> (8 * at) & 0xFFU;
  return (Ints)(scale | scale << 16);
}
template <int at>
MAMBA2_INLINE Ints signed_group_scale(Unsigned bytes) {
  const Unsigned scale = (Unsigned)((Ints)(bytes << (24 - 8 * at)) >> 24) & 0xFFFFU;
  return (Ints)(scale | scale << 16);
}

#else

constexpr bool sums_in_16_bits = false;

struct GroupSum {
  Ints sum = {};
  MAMBA2_INLINE void add(Unsigned w, Ints x) {
#if defined(__AVX512VNNI__)
    sum = (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#else
    sum += multiply_pairs((Ints)(w & 0x00FF00FFU), even_bytes(x)) +
           multiply_pairs((Ints)(w >> 8 & 0x00FF00FFU), odd_bytes(x));
#endif
  }
  MAMBA2_INLINE Ints scaled(Ints scale) const {
    return sum * scale;
  }
  MAMBA2_INLINE Ints plain() const {
    return sum;
  }
};

template <int at>
MAMBA2_INLINE Ints group_scale(Unsigned bytes) {
  return (Ints)(bytes >> (8 * at) & 0xFFU);
}
template <int at>
MAMBA2_INLINE Ints signed_group_scale(Unsigned bytes) {
  return (Ints)(bytes << (24 - 8 * at)) >> 24;
}

#endif

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
