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

/// sums[m][n] += sum over k of x[m][k] w[n][k] for a tile of M by N; fetches `fetched` rows of `ahead` meanwhile.
template <class Weight, int M, int N, int fetched = 0, class Next = Weight>
MAMBA2_INLINE void dot_tile(const float* x, std::int64_t x_stride, const Weight* w, std::int64_t w_stride,
                            std::int64_t k, float* sums, std::int64_t sums_stride, Ahead<Next> ahead = {}) {
  Floats sum[M][N] = {};
  auto add = [&](std::int64_t at, auto load_x, auto load_w) __attribute__((always_inline)) {
    Floats xs[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) xs[m] = load_x(x + m * x_stride + at);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const Floats ws = load_w(w + n * w_stride + at);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) sum[m][n] = fma(xs[m], ws, sum[m][n]);
    }
  };
  auto add_lanes = [&](std::int64_t at) __attribute__((always_inline)) {
    add(
        at, [](const float* from) __attribute__((always_inline)) { return load(from); },
        [](const Weight* from) __attribute__((always_inline)) { return load_wide(from); });
  };
  std::int64_t at = 0;
  if constexpr (fetched > 0) {
    constexpr int line = 64 / static_cast<int>(sizeof(Next));  // elements of a cache line
    for (; at + line <= k; at += line) {
#pragma GCC unroll 8
      for (int n = 0; n < fetched; ++n) __builtin_prefetch(ahead.rows + n * ahead.stride + at, 0, 2);
#pragma GCC unroll 8
      for (int step = 0; step < line; step += lanes) add_lanes(at + step);
    }
  }
  for (; at + lanes <= k; at += lanes) add_lanes(at);
  if (at < k)
    add(
        at, [&](const float* from) __attribute__((always_inline)) { return load_some(from, k - at); },
        [&](const Weight* from) __attribute__((always_inline)) { return load_wide_some(from, k - at); });
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

template <int M>
struct Height {
  static constexpr int rows = M;
};

/// All rows of x against tile_columns rows of w.  Each tile of them fetches the next `fetched` rows of `ahead`.
template <class Weight, int fetched = 0, class Next = Weight>
__attribute__((noinline)) void dot_rows(const float* x, std::int64_t x_stride, std::int64_t rows, const Weight* w,
                                        std::int64_t w_stride, std::int64_t k, float* sums, std::int64_t sums_stride,
                                        Ahead<Next> ahead = {}) {
  for (std::int64_t m = 0; m < rows; m += tile_rows) {
    auto tile = [&](auto height) __attribute__((always_inline)) {
      dot_tile<Weight, decltype(height)::rows, tile_columns, fetched>(x + m * x_stride, x_stride, w, w_stride, k,
                                                                      sums + m * sums_stride, sums_stride, ahead);
    };
    switch (rows - m) {
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

/// All rows of x against one row of w, for the columns that no whole tile covers.
template <class Weight>
__attribute__((noinline)) void dot_row(const float* x, std::int64_t x_stride, std::int64_t rows, const Weight* w,
                                       std::int64_t k, float* sums, std::int64_t sums_stride) {
  for (std::int64_t m = 0; m < rows; ++m)
    dot_tile<Weight, 1, 1>(x + m * x_stride, 0, w, 0, k, sums + m * sums_stride, 0);
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
