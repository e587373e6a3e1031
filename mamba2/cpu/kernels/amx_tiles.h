#pragma once

#include "mamba2/cpu/kernels.h"
#include "mamba2/cpu/kernels/linear_parts.h"
#include "mamba2/cpu/kernels/round.h"

// Matrix products by tiles of 16 by 16 sums, as AMX computes them.  A tile of one operand holds 16 rows of 32 columns;
// of the other, 16 pairs of adjacent columns of 16 rows.  Rows of weights are of the first kind as they lie in memory,
// so nobody has to turn them: x is turned while it is rounded, and the sums when they are done.
//   A panel of 32 rows of w is copied tile by tile (48 KiB at 768 columns; it cures every stride, alignment and tail),
//   and all of x passes by from L2, 32 rows at a time, whose 2 by 2 tiles of sums stay in registers over all of k.
//   Weights in f16 are each the exact sum of two numbers in bf16, and x is one but for 2^-18 of it.  Of the four
// products the three large ones are taken, so that what is left out is 2^-18 of the product too.
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

/// A value as the sum of two in bf16, each in the lower half of a word.  The second of what is not finite is 0.
struct TwoParts {
  Words16 large, small;
};
MAMBA2_INLINE TwoParts two_parts(Words16 bits) {
  using Floats16 = float __attribute__((vector_size(64)));
  const Words16 large = rounded_to_bf16(bits), widened = large << 16;
  const Words16 is_finite = (Words16)((widened & 0x7F800000U) != 0x7F800000U);
  return {large, is_finite & rounded_to_bf16((Words16)((Floats16)bits - (Floats16)widened))};
}

/// Columns 0 to 15 and 16 to 31 as 16 pairs; the column that comes first is the lower half.
MAMBA2_INLINE Words16 pairs_of(Words16 a, Words16 b) {
  const Words16 first = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const Words16 second = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return first | (second << 16);
}

inline void store_turned(Words16* pairs, std::uint16_t* tile) {
  transpose(pairs);
  for (std::int64_t i = 0; i < tile_side; ++i) store_unaligned(tile + i * columns_in_a_tile, pairs[i]);
}

/// Tiles of a group of rows, in the order of their columns; rows that are missing become zeros.
inline void round_to_tiles(const RoundTask& t) {
  for (std::int64_t k = 0; k < t.k; k += columns_in_a_tile) {
    Words16 pairs[tile_side] = {};
    for (std::int64_t m = 0; m < t.rows; ++m) {
      const float* const from = t.x + m * t.x_stride + k;
      pairs[m] =
          pairs_of(rounded_to_bf16(load_words(from, t.k - k)), rounded_to_bf16(load_words(from + 16, t.k - k - 16)));
    }
    store_turned(pairs, t.to + k * tile_side);
  }
}

/// The same with a tile of the large parts and one of the small parts for all 32 columns.
inline void split_to_tiles(const RoundTask& t) {
  for (std::int64_t k = 0; k < t.k; k += columns_in_a_tile) {
    Words16 large[tile_side] = {}, small[tile_side] = {};
    for (std::int64_t m = 0; m < t.rows; ++m) {
      const float* const from = t.x + m * t.x_stride + k;
      const TwoParts a = two_parts(load_words(from, t.k - k)), b = two_parts(load_words(from + 16, t.k - k - 16));
      large[m] = pairs_of(a.large, b.large);
      small[m] = pairs_of(a.small, b.small);
    }
    store_turned(large, t.to + 2 * k * tile_side);
    store_turned(small, t.to + 2 * k * tile_side + tile_elements);
  }
}

/// Weights in bf16: their bits, times x rounded.
struct Rounded {
  static constexpr std::int64_t parts = 1;
  /// 32 columns of one row, to its place in the tile.
  static MAMBA2_INLINE void copy(const std::uint16_t* from, std::uint16_t* to) {
    store_unaligned(to, load_unaligned<Words16>(from));
  }
  template <class Tiles>
  static MAMBA2_INLINE void add(Tiles& tiles, const std::uint16_t* w, const std::uint16_t* x0,
                                const std::uint16_t* x1) {
    tiles.add(w, x0, x1);
  }
};

/// Weights in f16: two tiles for one, the small parts behind the large ones, times x in two parts.
struct Split {
  static constexpr std::int64_t parts = 2;
  static MAMBA2_INLINE void copy(const std::uint16_t* from, std::uint16_t* to) {
    for (std::int64_t half = 0; half < columns_in_a_tile; half += 16) {
      float wide[16];
      for (std::int64_t i = 0; i < 16; i += lanes)
        store(wide + i, load_wide(reinterpret_cast<const F16*>(from + half + i)));
      const TwoParts w = two_parts(load_unaligned<Words16>(wide));
      store_unaligned(to + half, __builtin_convertvector(w.large, Halves16));
      store_unaligned(to + 2 * tile_elements + half, __builtin_convertvector(w.small, Halves16));
    }
  }
  template <class Tiles>
  static MAMBA2_INLINE void add(Tiles& tiles, const std::uint16_t* w, const std::uint16_t* x0,
                                const std::uint16_t* x1) {
    tiles.add_split(w, x0, x1);
  }
};

/// Rows [0, rows) of w as pairs of tiles, for all 32 columns at a time the upper 16 rows and the lower; zeros beyond.
template <class Kind>
void copy_panel(const std::uint16_t* w, std::int64_t w_stride, std::int64_t rows, std::int64_t k,
                std::uint16_t* panel) {
  constexpr std::uint16_t zeros[columns_in_a_tile] = {};
  constexpr std::int64_t step = Kind::parts * 2 * tile_elements;
  for (std::int64_t row = 0; row < panel_side; ++row) {
    const std::uint16_t* const from = w + row * w_stride;
    std::uint16_t* to = panel + row * columns_in_a_tile;
    for (std::int64_t at = 0; at < k; at += columns_in_a_tile, to += step) {
      if (row >= rows) {
        Kind::copy(zeros, to);
      } else if (at + columns_in_a_tile <= k) {
        Kind::copy(from + at, to);
      } else {
        std::uint16_t last[columns_in_a_tile] = {};
        __builtin_memcpy(last, from + at, static_cast<unsigned long>(k - at) * sizeof(last[0]));
        Kind::copy(last, to);
      }
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

/// Tiles of x to L1: the processor asks for a tile's lines only when it is about to need them.
template <std::int64_t tiles>
MAMBA2_INLINE void fetch_tiles(const std::uint16_t* from) {
#pragma GCC unroll 32
  for (std::int64_t line = 0; line < tiles * tile_side; ++line)
    __builtin_prefetch(from + line * columns_in_a_tile, 0, 3);
}

/// sums[n][m] of a panel and two groups of x.
template <class Kind, class Tiles>
void multiply(Tiles& tiles, const std::uint16_t* panel, const std::uint16_t* x0, const std::uint16_t* x1,
              std::int64_t k, float* sums) {
  tiles.clear(panel);
  for (std::int64_t at = 0; at < k; at += columns_in_a_tile) {
    constexpr std::int64_t step = Kind::parts * tile_elements;
    fetch_tiles<Kind::parts>(x0 + step);
    fetch_tiles<Kind::parts>(x1 + step);
    Kind::add(tiles, panel, x0, x1);
    panel += 2 * step;
    x0 += step;
    x1 += step;
  }
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

template <class Kind, class Tiles>
void linear_by_tiles(const RoundedLinearTask& t) {
  Tiles tiles;
  float* const sums = t.scratch;
  float* const turned = sums + panel_side * panel_side;
  auto* const panel = reinterpret_cast<std::uint16_t*>(turned + panel_side * panel_side);
  const std::int64_t passes = (t.m + panel_side - 1) / panel_side, group = Kind::parts * rounded_elements(t.k);
  for (std::int64_t n = 0; n < t.n; n += panel_side) {
    const std::uint16_t* const w = t.w + n * t.w_stride;
    const std::int64_t columns = smaller(panel_side, t.n - n);
    copy_panel<Kind>(w, t.w_stride, columns, t.k, panel);
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      const std::int64_t m = pass * panel_side, rows = smaller(panel_side, t.m - m);
      const std::uint16_t* const x0 = t.x + m / tile_side * group;
      const std::uint16_t* const x1 = rows > tile_side ? x0 + group : x0;
      fetch_piece(w + panel_side * t.w_stride, t.w_stride, t.k, pass, passes);
      multiply<Kind>(tiles, panel, x0, x1, t.k, sums);
      turn(sums, turned);
      finish(part(t, m, rows, n, columns), turned, panel_side);
    }
  }
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
