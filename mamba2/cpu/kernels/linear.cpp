// Matrix products with a weight matrix, for one token and for thousands.
//
// An element of the result is the dot product of a row of x and a row of w, both contiguous, so neither is packed.  The
// columns are cut into equal blocks of at most 1024 (a function of k alone), each block's products are summed in a
// register and the blocks' sums added in order: the same bits for any number of rows.
//   few rows of x:  for a tile of rows of w at a time, all of k: w streams from memory once, widened in registers.
//   many:           block of k outermost; four rows of w are widened into L1 and every row of x passes by them from L2.
#include "mamba2/cpu/kernels/dot_tile.h"
#include "mamba2/cpu/kernels/parts.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

/// Length of the blocks that k is cut into; all but the last are multiples of 16, the widest register.
MAMBA2_INLINE std::int64_t block_length(std::int64_t k) {
  const std::int64_t blocks = (k + most_columns_in_a_block - 1) / most_columns_in_a_block;
  return blocks <= 1 ? (k < 1 ? 1 : k) : ((k + blocks - 1) / blocks + 15) / 16 * 16;
}

MAMBA2_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}

template <class Weight>
void widen(const void* from, float* to, std::int64_t count) {
  const auto* w = static_cast<const Weight*>(from);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, load_wide(w + i));
  if (i < count) store_some(to + i, load_wide_some(w + i, count - i), count - i);
}

/// One row of x against wide_tile_columns rows of w.
template <class Weight>
__attribute__((noinline)) void dot_wide(const float* x, const Weight* w, std::int64_t w_stride, std::int64_t k,
                                        float* sums) {
  dot_tile<Weight, 1, wide_tile_columns, wide_tile_columns>(x, 0, w, w_stride, k, sums, 0,
                                                            {w + wide_tile_columns * w_stride, w_stride});
}

/// Columns from n on: a tile's, or one at the end.  Returns how many.
template <class Weight>
std::int64_t few_rows(const LinearTask& t, std::int64_t n, float* sums, std::int64_t sums_stride) {
  const auto* w = static_cast<const Weight*>(t.w) + n * t.w_stride;
  const std::int64_t block = block_length(t.k);
  const bool wide = t.m == 1 && n + wide_tile_columns <= t.n;
  const std::int64_t columns = wide ? wide_tile_columns : n + tile_columns <= t.n ? tile_columns : 1;
  for (std::int64_t k = 0; k < t.k; k += block) {
    const std::int64_t length = smaller(block, t.k - k);
    if (wide)
      dot_wide<Weight>(t.x + k, w + k, t.w_stride, length, sums + n);
    else if (columns == tile_columns)
      dot_rows<Weight, tile_columns>(t.x + k, t.x_stride, t.m, w + k, t.w_stride, length, sums + n, sums_stride,
                                     {w + k + tile_columns * t.w_stride, t.w_stride});
    else
      dot_row<Weight>(t.x + k, t.x_stride, t.m, w + k, length, sums + n, sums_stride);
  }
  return columns;
}

/// All rows of x against tile_columns widened rows, while those that are widened next come from memory.
template <class Weight>
void dot_widened(const LinearTask& t, std::int64_t k, const float* widened, std::int64_t length, float* sums,
                 std::int64_t sums_stride, Ahead<Weight> ahead) {
  const float* const x = t.x + k;
  if (t.m < 2 * tile_rows) {
    dot_rows<float, 4>(x, t.x_stride, t.m, widened, length, length, sums, sums_stride, ahead);
  } else if (t.m < 4 * tile_rows) {
    dot_rows<float, 2>(x, t.x_stride, t.m, widened, length, length, sums, sums_stride, ahead);
  } else {
    constexpr std::int64_t rows = 4 * tile_rows;
    dot_rows<float, 1>(x, t.x_stride, rows, widened, length, length, sums, sums_stride, ahead);
    dot_rows<float>(x + rows * t.x_stride, t.x_stride, t.m - rows, widened, length, length, sums + rows * sums_stride,
                    sums_stride);
  }
}

/// The same for one block of k.
template <class Weight>
std::int64_t many_rows(const LinearTask& t, std::int64_t n, std::int64_t k, std::int64_t length, float* sums,
                       std::int64_t sums_stride, float* widened) {
  const auto* w = static_cast<const Weight*>(t.w) + n * t.w_stride + k;
  const std::int64_t columns = n + tile_columns <= t.n ? tile_columns : 1;
  for (std::int64_t i = 0; i < columns; ++i) widen<Weight>(w + i * t.w_stride, widened + i * length, length);
  if (columns == tile_columns)
    dot_widened<Weight>(t, k, widened, length, sums + n, sums_stride, {w + columns * t.w_stride, t.w_stride});
  else
    dot_row<float>(t.x + k, t.x_stride, t.m, widened, length, sums + n, sums_stride);
  return columns;
}

void finish(const LinearTask& t, const float* sums, std::int64_t sums_stride) {
  for (std::int64_t m = 0; m < t.m; ++m) {
    const float* const from = sums + m * sums_stride;
    float* const to = t.out + m * t.out_stride;
    const float* const add = t.add == nullptr ? nullptr : t.add + m * t.add_stride;
    auto finished = [&](Floats value, auto load_it, std::int64_t n) __attribute__((always_inline)) {
      if (t.bias != nullptr) value = value + load_it(t.bias + n);
      if (add != nullptr) value = value + load_it(add + n);
      return value;
    };
    std::int64_t n = 0;
    for (; n + lanes <= t.n; n += lanes)
      store(to + n, finished(
                        load(from + n), [](const float* p) __attribute__((always_inline)) { return load(p); }, n));
    const std::int64_t rest = t.n - n;
    if (rest > 0) {
      auto some = [rest](const float* p) __attribute__((always_inline)) {
        return load_some(p, rest);
      };
      store_some(to + n, finished(some(from + n), some, n), rest);
    }
  }
}

template <class Weight>
void linear(const LinearTask& t) {
  const std::int64_t sums_stride = (t.n + tile_columns - 1) / tile_columns * tile_columns;
  float* const sums = t.scratch;
  float* const widened = sums + t.m * sums_stride;
  for (std::int64_t i = 0; i < t.m * sums_stride; ++i) sums[i] = 0.0F;
  if (t.m < widen_from_rows) {
    for (std::int64_t n = 0; n < t.n;) n += few_rows<Weight>(t, n, sums, sums_stride);
  } else {
    const std::int64_t block = block_length(t.k);
    for (std::int64_t k = 0; k < t.k; k += block) {
      const std::int64_t length = smaller(block, t.k - k);
      for (std::int64_t n = 0; n < t.n;) n += many_rows<Weight>(t, n, k, length, sums, sums_stride, widened);
    }
  }
  finish(t, sums, sums_stride);
}

}  // namespace

void add_linear(Kernels& kernels) {
  kernels.linear[static_cast<int>(WeightType::f32)] = linear<float>;
  kernels.linear[static_cast<int>(WeightType::bf16)] = linear<Bf16>;
  kernels.linear[static_cast<int>(WeightType::f16)] = linear<F16>;
  kernels.widen[static_cast<int>(WeightType::f32)] = widen<float>;
  kernels.widen[static_cast<int>(WeightType::bf16)] = widen<Bf16>;
  kernels.widen[static_cast<int>(WeightType::f16)] = widen<F16>;
}

}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
