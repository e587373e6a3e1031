#pragma once

#include "mamba2/cpu/kernels/vec.h"

// Products of rows with rows (x w^T): both operands run along k, so an element is one register of partial sums that
// `lanes` columns at a time are added to, and its bits are the same in every tile shape.
namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

// Rows of x in a tile.  With four rows of w the partial sums, a register for w and the x registers fill the 16 (AVX2)
// or 32 (AVX-512) registers, and there are nearly two multiply-adds for each load.
#if defined(__AVX512F__)
constexpr int tile_rows = 6;
#else
constexpr int tile_rows = 3;
#endif
constexpr int tile_columns = 4;
// For a single row of x: enough sums at a time to hide the latency of a multiply-add.
constexpr int wide_tile_columns = 8;

/// Rows that a tile asks the memory for while it runs: at each of its steps a piece of every one.  Rows of weights are
/// too short for the processor to find the stream by itself.  They are fetched to L2, which can wait for more lines at
/// a time than L1.  Past the end of memory this does nothing.
template <class Weight>
struct Ahead {
  const Weight* rows;
  std::int64_t stride;
};

/// How `step` columns of a row of x meet those of a row of w.
template <class X, class Weight>
struct Products;

template <class Weight>
struct Products<float, Weight> {
  static constexpr int step = lanes;
  static MAMBA2_INLINE Floats load_x(const float* from) { return load(from); }
  static MAMBA2_INLINE Floats load_x_some(const float* from, std::int64_t count) { return load_some(from, count); }
  static MAMBA2_INLINE Floats load_w(const Weight* from) { return load_wide(from); }
  static MAMBA2_INLINE Floats load_w_some(const Weight* from, std::int64_t count) {
    return load_wide_some(from, count);
  }
  static MAMBA2_INLINE Floats add(Floats sum, Floats x, Floats w) { return fma(x, w, sum); }
};

/// sums[m][n] += sum over k of x[m][k] w[n][k] for a tile of M by N; fetches `fetched` rows of `ahead` meanwhile.
template <class Weight, int M, int N, int fetched = 0, class Next = Weight, class X>
MAMBA2_INLINE void dot_tile(const X* x, std::int64_t x_stride, const Weight* w, std::int64_t w_stride, std::int64_t k,
                            float* sums, std::int64_t sums_stride, Ahead<Next> ahead = {}) {
  using P = Products<X, Weight>;
  Floats sum[M][N] = {};
  auto add = [&](std::int64_t at, auto load_x, auto load_w) __attribute__((always_inline)) {
    decltype(load_x(x)) xs[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) xs[m] = load_x(x + m * x_stride + at);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const auto ws = load_w(w + n * w_stride + at);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) sum[m][n] = P::add(sum[m][n], xs[m], ws);
    }
  };
  auto add_step = [&](std::int64_t at) __attribute__((always_inline)) {
    add(
        at, [](const X* from) __attribute__((always_inline)) { return P::load_x(from); },
        [](const Weight* from) __attribute__((always_inline)) { return P::load_w(from); });
  };
  std::int64_t at = 0;
  if constexpr (fetched > 0) {
    constexpr int line = 64 / static_cast<int>(sizeof(Next));  // elements of a cache line
    for (; at + line <= k; at += line) {
#pragma GCC unroll 8
      for (int n = 0; n < fetched; ++n) __builtin_prefetch(ahead.rows + n * ahead.stride + at, 0, 2);
#pragma GCC unroll 8
      for (int step = 0; step < line; step += P::step) add_step(at + step);
    }
  }
  for (; at + P::step <= k; at += P::step) add_step(at);
  if (at < k)
    add(
        at, [&](const X* from) __attribute__((always_inline)) { return P::load_x_some(from, k - at); },
        [&](const Weight* from) __attribute__((always_inline)) { return P::load_w_some(from, k - at); });
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    float* const to = sums + m * sums_stride;
    if constexpr (N % 4 == 0) {
#pragma GCC unroll 8
      for (int n = 0; n < N; n += 4) {
        const Floats4 total = sums_of_lanes(sum[m][n], sum[m][n + 1], sum[m][n + 2], sum[m][n + 3]);
        store_unaligned(to + n, load_unaligned<Floats4>(to + n) + total);
      }
    } else {
      for (int n = 0; n < N; ++n) to[n] += sum_of_lanes(sum[m][n]);
    }
  }
}

/// Rows that the first tile of `rows` takes: as many as fit, but where few would be left, whose short tile could not
/// hide the latency of its sums, half.
MAMBA2_INLINE std::int64_t tile_height(std::int64_t rows) {
  if (rows <= tile_rows) return rows;
  return rows - tile_rows <= tile_rows / 3 ? (rows + 1) / 2 : tile_rows;
}

template <int M>
struct Height {
  static constexpr int rows = M;
};

/// All rows of x against tile_columns rows of w.  Each tile of them fetches the next `fetched` rows of `ahead`.
template <class Weight, int fetched = 0, class Next = Weight, class X>
__attribute__((noinline)) void dot_rows(const X* x, std::int64_t x_stride, std::int64_t rows, const Weight* w,
                                        std::int64_t w_stride, std::int64_t k, float* sums, std::int64_t sums_stride,
                                        Ahead<Next> ahead = {}) {
  for (std::int64_t m = 0, height = 0; m < rows; m += height) {
    height = tile_height(rows - m);
    auto tile = [&](auto rows_of_tile) __attribute__((always_inline)) {
      dot_tile<Weight, decltype(rows_of_tile)::rows, tile_columns, fetched>(x + m * x_stride, x_stride, w, w_stride, k,
                                                                            sums + m * sums_stride, sums_stride, ahead);
    };
    switch (height) {
#if defined(__AVX512F__)
      case 5: tile(Height<5>()); break;
      case 4: tile(Height<4>()); break;
      case 3: tile(Height<3>()); break;
#endif
      case 2: tile(Height<2>()); break;
      case 1: tile(Height<1>()); break;
      default: tile(Height<tile_rows>()); break;
    }
    ahead.rows += fetched * ahead.stride;
  }
}

/// One row of x against wide_tile_columns rows of w, while as many more come from memory.
template <class Weight, class X>
__attribute__((noinline)) void dot_wide(const X* x, const Weight* w, std::int64_t w_stride, std::int64_t k,
                                        float* sums) {
  dot_tile<Weight, 1, wide_tile_columns, wide_tile_columns>(x, 0, w, w_stride, k, sums, 0,
                                                            {w + wide_tile_columns * w_stride, w_stride});
}

/// All rows of x against tile_columns rows of w, while the four rows of `ahead` come from memory, spread over the tiles
/// where there are many, by the first where there are few: nothing is asked for twice.
template <class Next, class Weight, class X>
MAMBA2_INLINE void dot_rows_fetching(const X* x, std::int64_t x_stride, std::int64_t rows, const Weight* w,
                                     std::int64_t w_stride, std::int64_t k, float* sums, std::int64_t sums_stride,
                                     Ahead<Next> ahead) {
  if (rows < 2 * tile_rows) {
    const std::int64_t first = tile_height(rows);
    dot_rows<Weight, 4>(x, x_stride, first, w, w_stride, k, sums, sums_stride, ahead);
    dot_rows<Weight>(x + first * x_stride, x_stride, rows - first, w, w_stride, k, sums + first * sums_stride,
                     sums_stride);
  } else if (rows < 4 * tile_rows) {
    dot_rows<Weight, 2>(x, x_stride, rows, w, w_stride, k, sums, sums_stride, ahead);
  } else {
    constexpr std::int64_t first = 4 * tile_rows;
    dot_rows<Weight, 1>(x, x_stride, first, w, w_stride, k, sums, sums_stride, ahead);
    dot_rows<Weight>(x + first * x_stride, x_stride, rows - first, w, w_stride, k, sums + first * sums_stride,
                     sums_stride);
  }
}

/// All rows of x against one row of w, for the columns that no whole tile covers.
template <class Weight, class X>
__attribute__((noinline)) void dot_row(const X* x, std::int64_t x_stride, std::int64_t rows, const Weight* w,
                                       std::int64_t k, float* sums, std::int64_t sums_stride) {
  for (std::int64_t m = 0; m < rows; ++m)
    dot_tile<Weight, 1, 1>(x + m * x_stride, 0, w, 0, k, sums + m * sums_stride, 0);
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
