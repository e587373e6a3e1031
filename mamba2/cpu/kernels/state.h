#pragma once

#include "mamba2/cpu/kernels.h"
#include "mamba2/cpu/kernels/vec.h"

// Rows of ssm_state in the forms it is held in: f32; bf16 rounded to nearest; bf16 rounded up or down by chance, in
// proportion to the distance, so that updates far below a unit in the last place count on average.  What the draw is,
// is said at StateRounding in mamba2/ops/ops.h.
namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

using Unsigned = std::uint32_t __attribute__((vector_size(lanes * 4)));
/// Numbers below 2^32, each in 64 bits, where a product of two has room.
using Wide = std::uint64_t __attribute__((vector_size(lanes * 4)));
constexpr int wide_lanes = lanes / 2;

/// Products of the lower halves.
MAMBA2_INLINE Wide multiply_low(Wide a, std::uint32_t b) {
  const Wide factor = Wide{} + b;
#if defined(__AVX512F__)
  return (Wide)_mm512_mul_epu32((__m512i)a, (__m512i)factor);
#elif defined(__AVX2__)
  return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)factor);
#elif defined(__SSE2__)
  return (Wide)_mm_mul_epu32((__m128i)a, (__m128i)factor);
#else
  return (a & 0xFFFFFFFFU) * factor;
#endif
}

/// The elements [64 block, 64 block + 64) of a row are rounded by these, each 16 random bits.
constexpr std::int64_t noise_block = 64;

/// Philox4x32-10 (Salmon et al. 2011) of eight counters, two draws for each of their words.
inline void draw_noise(std::uint32_t first, std::uint32_t head, std::uint32_t position, std::uint32_t layer,
                       std::uint32_t* noise) {
  for (int half = 0; half < 8; half += wide_lanes) {
    Wide c0 = Wide{} + first, c1 = Wide{} + head, c2 = Wide{} + position, c3 = Wide{} + layer;
    for (int i = 0; i < wide_lanes; ++i) c0[i] += static_cast<std::uint64_t>(half + i);
    std::uint32_t key0 = state_rounding_key[0], key1 = state_rounding_key[1];
    for (int round = 0; round < 10; ++round) {
      const Wide a = multiply_low(c0, 0xD2511F53U), b = multiply_low(c2, 0xCD9E8D57U);
      // The upper halves of c0 and c2 hold what does not count.
      c0 = (b >> 32) ^ c1 ^ key0;
      c2 = (a >> 32) ^ c3 ^ key1;
      c1 = b & 0xFFFFFFFFU;
      c3 = a & 0xFFFFFFFFU;
      key0 += 0x9E3779B9U;
      key1 += 0xBB67AE85U;
    }
    int word = 0;
    for (const Wide w : {c0, c1, c2, c3}) {
      store_unaligned(noise + 16 * word + 2 * half, (w & 0xFFFFU) | ((w & 0xFFFF0000U) << 16));
      ++word;
    }
  }
}

/// The upper halves after `noise` was added to the lower ones; infinities stay, NaN stays NaN.
MAMBA2_INLINE Halves round_bits(Floats value, Unsigned noise) {
  const Unsigned bits = (Unsigned)value;
  const Unsigned special = (Unsigned)((bits & 0x7F800000U) == 0x7F800000U);
  const Unsigned quiet = (Unsigned)((bits & 0x7FFFFFFFU) > 0x7F800000U) & 0x40U;
  const Unsigned finite = (bits + noise) >> 16;
  return __builtin_convertvector((special & ((bits >> 16) | quiet)) | (~special & finite), Halves);
}

template <StateForm form>
struct StateElement {
  using Type = Bf16;
};
template <>
struct StateElement<StateForm::f32> {
  using Type = float;
};

/// Row p of a head's state.
template <StateForm form>
MAMBA2_INLINE typename StateElement<form>::Type* state_row(const ScanTask& t, std::int64_t p) {
  return static_cast<typename StateElement<form>::Type*>(t.state) + p * t.state_stride;
}

MAMBA2_INLINE Floats load_state(const float* from) {
  return load(from);
}
MAMBA2_INLINE Floats load_state(const Bf16* from) {
  return load_wide(from);
}
MAMBA2_INLINE Floats load_state_some(const float* from, std::int64_t count) {
  return load_some(from, count);
}
MAMBA2_INLINE Floats load_state_some(const Bf16* from, std::int64_t count) {
  return load_wide_some(from, count);
}

/// noise: for the element at `to` and those that follow; stochastic rounding alone.
template <StateForm form, class Element>
MAMBA2_INLINE void store_state(Element* to, Floats value, const std::uint32_t* noise) {
  if constexpr (form == StateForm::f32) store(to, value);
  if constexpr (form == StateForm::bf16)
    store_unaligned(to, round_bits(value, 0x7FFFU + (((Unsigned)value >> 16) & 1U)));
  if constexpr (form == StateForm::bf16_stochastic)
    store_unaligned(to, round_bits(value, load_unaligned<Unsigned>(noise)));
}
template <StateForm form, class Element>
MAMBA2_INLINE void store_state_some(Element* to, Floats value, const std::uint32_t* noise, std::int64_t count) {
  Element lane[lanes];
  store_state<form>(lane, value, noise);
  __builtin_memcpy(to, lane, static_cast<unsigned long>(count) * sizeof(Element));
}

/// The noise for one block of row p when the state after token `token` is written.
MAMBA2_INLINE void draw_noise(const ScanTask& t, std::int64_t token, std::int64_t p, std::int64_t block,
                              std::uint32_t* noise) {
  const std::int64_t blocks = (t.state_size + noise_block - 1) / noise_block;
  draw_noise(static_cast<std::uint32_t>((p * blocks + block) * 8), t.head,
             static_cast<std::uint32_t>(t.positions[token]), t.layer, noise);
}

/// Calls body.template operator()<form>().
template <class Body>
MAMBA2_INLINE void with_state_form(StateForm form, Body body) {
  switch (form) {
    case StateForm::f32: body.template operator()<StateForm::f32>(); break;
    case StateForm::bf16: body.template operator()<StateForm::bf16>(); break;
    case StateForm::bf16_stochastic: body.template operator()<StateForm::bf16_stochastic>(); break;
  }
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
