#pragma once

#include "mamba2/cpu/kernels.h"
#include "mamba2/cpu/kernels/linear_parts.h"
#include "mamba2/cpu/kernels/round.h"

// Matrix products by tiles of 16 by 16 sums, as AMX computes them.  A tile of one operand holds 16 rows of 32 columns;
// of the other, 16 pairs of adjacent columns of 16 rows.  Rows of weights are of the first kind as they lie in memory,
// so nobody has to turn them: x is turned while it is rounded, and the sums when they are done.
//   A panel of 32 rows of w is copied tile by tile (48 KiB at 768 columns; it cures every stride, alignment and tail),
//   and all of x passes by from L2, 32 rows at a time, whose 2 by 2 tiles of sums stay in registers over all of k.
// What a tile is stands in the argument `Tiles`, so that the tests can run all this without the instructions.
namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

constexpr std::int64_t tile_side = 16;
constexpr std::int64_t columns_in_a_tile = 32;
constexpr std::int64_t tile_elements = tile_side * columns_in_a_tile;
constexpr std::int64_t panel_side = 2 * tile_side;
static_assert(tile_side == rows_in_a_group);

/// Where lane j of a row of the transposed comes from; step by step, bit `s` of row and column change places.
template <int s>
constexpr int upper(int j) {
  return (j & s) != 0 ? 16 + j - s : j;
}
template <int s>
constexpr int lower(int j) {
  return (j & s) != 0 ? 16 + j : j + s;
}

template <int s>
MAMBA2_INLINE void exchange(Words16* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if ((i & s) != 0) continue;
    const Words16 a = rows[i], b = rows[i + s];
    rows[i] = __builtin_shufflevector(a, b, upper<s>(0), upper<s>(1), upper<s>(2), upper<s>(3), upper<s>(4),
                                      upper<s>(5), upper<s>(6), upper<s>(7), upper<s>(8), upper<s>(9), upper<s>(10),
                                      upper<s>(11), upper<s>(12), upper<s>(13), upper<s>(14), upper<s>(15));
    rows[i + s] = __builtin_shufflevector(a, b, lower<s>(0), lower<s>(1), lower<s>(2), lower<s>(3), lower<s>(4),
                                          lower<s>(5), lower<s>(6), lower<s>(7), lower<s>(8), lower<s>(9), lower<s>(10),
                                          lower<s>(11), lower<s>(12), lower<s>(13), lower<s>(14), lower<s>(15));
  }
}

MAMBA2_INLINE void transpose(Words16* rows) {
  exchange<8>(rows);
  exchange<4>(rows);
  exchange<2>(rows);
  exchange<1>(rows);
}

/// 32 columns as 16 pairs, zeros from `count` on; the column that comes first is the lower half.
MAMBA2_INLINE Words16 rounded_pairs(const float* from, std::int64_t count) {
  const Words16 a = rounded_to_bf16(load_words(from, count)), b = rounded_to_bf16(load_words(from + 16, count - 16));
  const Words16 first = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const Words16 second = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return first | (second << 16);
}

/// Tiles of a group of rows, in the order of their columns; rows that are missing become zeros.
inline void round_to_tiles(const RoundTask& t) {
  for (std::int64_t k = 0; k < t.k; k += columns_in_a_tile) {
    Words16 pairs[tile_side];
    for (std::int64_t m = 0; m < tile_side; ++m)
      pairs[m] = m < t.rows ? rounded_pairs(t.x + m * t.x_stride + k, t.k - k) : Words16{};
    transpose(pairs);
    for (std::int64_t i = 0; i < tile_side; ++i)
      store_unaligned(t.to + k * tile_side + i * columns_in_a_tile, pairs[i]);
  }
}

/// Rows [0, rows) of w as pairs of tiles, for all 32 columns at a time the upper 16 rows and the lower; zeros beyond.
inline void copy_panel(const std::uint16_t* w, std::int64_t w_stride, std::int64_t rows, std::int64_t k,
                       std::uint16_t* panel) {
  for (std::int64_t row = 0; row < panel_side; ++row) {
    const std::uint16_t* const from = w + row * w_stride;
    std::uint16_t* to = panel + row * columns_in_a_tile;
    std::int64_t at = 0;
    if (row < rows)
      for (; at + columns_in_a_tile <= k; at += columns_in_a_tile, to += 2 * tile_elements)
        store_unaligned(to, load_unaligned<Words16>(from + at));
    for (; at < k; at += columns_in_a_tile, to += 2 * tile_elements) {
      std::uint16_t last[columns_in_a_tile] = {};
      if (row < rows) __builtin_memcpy(last, from + at, static_cast<unsigned long>(k - at) * sizeof(last[0]));
      store_unaligned(to, load_unaligned<Words16>(last));
    }
  }
}

/// A piece of the panel that comes next, to L2, so that copying it will not wait for memory.
inline void fetch_piece(const std::uint16_t* w, std::int64_t w_stride, std::int64_t k, std::int64_t piece,
                        std::int64_t pieces) {
  constexpr std::int64_t line = 64 / sizeof(w[0]);
  for (std::int64_t row = piece; row < panel_side; row += pieces)
    for (std::int64_t at = 0; at < k; at += line) __builtin_prefetch(w + row * w_stride + at, 0, 2);
}

/// sums[n][m] of a panel and two groups of x.
template <class Tiles>
void multiply(Tiles& tiles, const std::uint16_t* panel, const std::uint16_t* x0, const std::uint16_t* x1,
              std::int64_t k, float* sums) {
  tiles.clear(panel);
  for (std::int64_t at = 0; at < k; at += columns_in_a_tile)
    tiles.add(panel + at * panel_side, x0 + at * tile_side, x1 + at * tile_side);
  tiles.store(sums);
}

/// sums[n][m] to turned[m][n], both panel_side by panel_side.
inline void turn(const float* sums, float* turned) {
  for (std::int64_t n = 0; n < panel_side; n += tile_side)
    for (std::int64_t m = 0; m < panel_side; m += tile_side) {
      Words16 rows[tile_side];
      for (std::int64_t i = 0; i < tile_side; ++i) rows[i] = load_unaligned<Words16>(sums + (n + i) * panel_side + m);
      transpose(rows);
      for (std::int64_t i = 0; i < tile_side; ++i) store_unaligned(turned + (m + i) * panel_side + n, rows[i]);
    }
}

/// Rows [m, m + rows) and columns [n, n + columns) of a task, as finish() wants them.
inline RoundedLinearTask part(const RoundedLinearTask& whole, std::int64_t m, std::int64_t rows, std::int64_t n,
                              std::int64_t columns) {
  RoundedLinearTask t = whole;
  t.m = rows;
  t.n = columns;
  if (t.bias != nullptr) t.bias += n;
  if (t.add != nullptr) t.add += m * t.add_stride + n;
  t.out += m * t.out_stride + n;
  return t;
}

template <class Tiles>
void linear_by_tiles(const RoundedLinearTask& t) {
  Tiles tiles;
  float* const sums = t.scratch;
  float* const turned = sums + panel_side * panel_side;
  auto* const panel = reinterpret_cast<std::uint16_t*>(turned + panel_side * panel_side);
  const std::int64_t passes = (t.m + panel_side - 1) / panel_side;
  for (std::int64_t n = 0; n < t.n; n += panel_side) {
    const std::uint16_t* const w = t.w + n * t.w_stride;
    const std::int64_t columns = smaller(panel_side, t.n - n);
    copy_panel(w, t.w_stride, columns, t.k, panel);
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      const std::int64_t m = pass * panel_side, rows = smaller(panel_side, t.m - m);
      const std::uint16_t* const x0 = t.x + m / tile_side * rounded_elements(t.k);
      const std::uint16_t* const x1 = rows > tile_side ? x0 + rounded_elements(t.k) : x0;
      fetch_piece(w + panel_side * t.w_stride, t.w_stride, t.k, pass, passes);
      multiply(tiles, panel, x0, x1, t.k, sums);
      turn(sums, turned);
      finish(part(t, m, rows, n, columns), turned, panel_side);
    }
  }
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
