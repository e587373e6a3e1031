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

/// sums[m][n] += sum over k of x[m][k] w[n][k] for a tile of M by N.
template <class Weight, int M, int N>
MAMBA2_INLINE void dot_tile(const float* x, std::int64_t x_stride, const Weight* w, std::int64_t w_stride,
                            std::int64_t k, float* sums, std::int64_t sums_stride) {
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
  std::int64_t at = 0;
  for (; at + lanes <= k; at += lanes)
    add(
        at, [](const float* from) __attribute__((always_inline)) { return load(from); },
        [](const Weight* from) __attribute__((always_inline)) { return load_wide(from); });
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
        *reinterpret_cast<Floats4InMemory*>(to + n) = *reinterpret_cast<const Floats4InMemory*>(to + n) + total;
      }
    } else {
      for (int n = 0; n < N; ++n) to[n] += sum_of_lanes(sum[m][n]);
    }
  }
}

/// All rows of x against tile_columns rows of w.
template <class Weight>
__attribute__((noinline)) void dot_rows(const float* x, std::int64_t x_stride, std::int64_t rows, const Weight* w,
                                        std::int64_t w_stride, std::int64_t k, float* sums, std::int64_t sums_stride) {
  std::int64_t m = 0;
  for (; m + tile_rows <= rows; m += tile_rows)
    dot_tile<Weight, tile_rows, tile_columns>(x + m * x_stride, x_stride, w, w_stride, k, sums + m * sums_stride,
                                              sums_stride);
  const float* const rest = x + m * x_stride;
  float* const to = sums + m * sums_stride;
  switch (rows - m) {
#if defined(__AVX512F__)
    case 5: dot_tile<Weight, 5, tile_columns>(rest, x_stride, w, w_stride, k, to, sums_stride); break;
    case 4: dot_tile<Weight, 4, tile_columns>(rest, x_stride, w, w_stride, k, to, sums_stride); break;
    case 3: dot_tile<Weight, 3, tile_columns>(rest, x_stride, w, w_stride, k, to, sums_stride); break;
#endif
    case 2: dot_tile<Weight, 2, tile_columns>(rest, x_stride, w, w_stride, k, to, sums_stride); break;
    case 1: dot_tile<Weight, 1, tile_columns>(rest, x_stride, w, w_stride, k, to, sums_stride); break;
    default: break;
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
