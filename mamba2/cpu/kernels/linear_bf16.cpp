// Matrix products with AVX-512 BF16: 32 products of bf16 an instruction, two adjacent columns into one sum, so rows of
// x and of w meet where they lie, as in linear.cpp.  The weights are not widened; x is rounded once for all of them.
#include "mamba2/cpu/kernels/dot_tile.h"
#include "mamba2/cpu/kernels/linear_parts.h"
#include "mamba2/cpu/kernels/round.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

// As many bytes of each row as linear.cpp takes of rows in f32.
constexpr std::int64_t most_rounded_columns_in_a_block = 2 * most_columns_in_a_block;

/// x is padded with zeros to whole registers; behind a row of w lies another matrix or nothing.
template <>
struct Products<Bf16, Bf16> {
  static constexpr int step = 32;
  static MAMBA2_INLINE __m512i load_x(const Bf16* from) { return _mm512_loadu_si512(from); }
  static MAMBA2_INLINE __m512i load_x_some(const Bf16* from, std::int64_t) { return load_x(from); }
  static MAMBA2_INLINE __m512i load_w(const Bf16* from) { return _mm512_loadu_si512(from); }
  static MAMBA2_INLINE __m512i load_w_some(const Bf16* from, std::int64_t count) {
    return _mm512_maskz_loadu_epi16((1U << count) - 1, from);
  }
  static MAMBA2_INLINE Floats add(Floats sum, __m512i x, __m512i w) {
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w);
  }
};

void round_rows(const RoundTask& t) {
  for (std::int64_t m = 0; m < t.rows; ++m) {
    const float* const from = t.x + m * t.x_stride;
    std::uint16_t* const to = t.to + m * rounded_columns(t.k);
    for (std::int64_t k = 0; k < rounded_columns(t.k); k += 16)
      store_unaligned(to + k, __builtin_convertvector(rounded_to_bf16(load_words(from + k, t.k - k)), Halves16));
  }
}

/// Columns from n on: a tile's, or one at the end.  Returns how many.
std::int64_t columns_of_rows(const RoundedLinearTask& t, std::int64_t n, std::int64_t k, std::int64_t length,
                             float* sums, std::int64_t sums_stride) {
  const std::int64_t x_stride = rounded_columns(t.k);
  const auto* const x = reinterpret_cast<const Bf16*>(t.x) + k;
  const auto* const w = reinterpret_cast<const Bf16*>(t.w) + n * t.w_stride + k;
  if (t.m == 1 && n + wide_tile_columns <= t.n) {
    dot_wide(x, w, t.w_stride, length, sums + n);
    return wide_tile_columns;
  }
  if (n + tile_columns <= t.n) {
    dot_rows_fetching<Bf16>(x, x_stride, t.m, w, t.w_stride, length, sums + n, sums_stride,
                            {w + tile_columns * t.w_stride, t.w_stride});
    return tile_columns;
  }
  dot_row(x, x_stride, t.m, w, length, sums + n, sums_stride);
  return 1;
}

void linear_rounded(const RoundedLinearTask& t) {
  const std::int64_t sums_stride = (t.n + tile_columns - 1) / tile_columns * tile_columns;
  float* const sums = t.scratch;
  for (std::int64_t i = 0; i < t.m * sums_stride; ++i) sums[i] = 0.0F;
  const std::int64_t block = block_length(t.k, most_rounded_columns_in_a_block);
  for (std::int64_t k = 0; k < t.k; k += block) {
    const std::int64_t length = smaller(block, t.k - k);
    for (std::int64_t n = 0; n < t.n;) n += columns_of_rows(t, n, k, length, sums, sums_stride);
  }
  finish(t, sums, sums_stride);
}

}  // namespace

Kernels kernels() {
  Kernels made = avx512_vnni::kernels();
  made.round_rows = round_rows;
  made.linear_rounded = linear_rounded;
  return made;
}

}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
