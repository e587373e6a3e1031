// Matrix products with a weight matrix, for one token and for thousands.
//
// An element of the result is the dot product of a row of x and a row of w, both contiguous, so neither is packed.  The
// columns are cut into equal blocks of at most 1024 (a function of k alone), each block's products are summed in a
// register and the blocks' sums added in order: the same bits for any number of rows.
//   few rows of x:  for a tile of rows of w at a time, all of k: w streams from memory once, widened in registers.
//   many:           block of k outermost; four rows of w, widened in L1 unless they are f32, and every row of x passes
//                   by them from L2 while the next four rows come from memory.
#include "mamba2/cpu/kernels/dot_tile.h"
#include "mamba2/cpu/kernels/linear_parts.h"
#include "mamba2/cpu/kernels/parts.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

// Up to this many rows weights are widened anew for each tile of rows, from there on once for all.
constexpr std::int64_t most_few_rows = 2 * tile_rows;

// Rows this far apart fall on the same lines of L1 and are copied before use even if they need no widening.
constexpr std::int64_t a_page_of_floats = 1024;

template <class Weight>
constexpr bool is_float = false;
template <>
constexpr bool is_float<float> = true;

template <class Weight>
void widen(const void* from, float* to, std::int64_t count) {
  const auto* w = static_cast<const Weight*>(from);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, load_wide(w + i));
  if (i < count) store_some(to + i, load_wide_some(w + i, count - i), count - i);
}

/// Columns from n on: a tile's, or one at the end.  Returns how many.
template <class Weight>
std::int64_t few_rows(const LinearTask& t, std::int64_t n, float* sums, std::int64_t sums_stride) {
  const auto* w = static_cast<const Weight*>(t.w) + n * t.w_stride;
  const std::int64_t block = block_length(t.k, most_columns_in_a_block);
  const bool wide = t.m == 1 && n + wide_tile_columns <= t.n;
  const std::int64_t columns = wide ? wide_tile_columns : n + tile_columns <= t.n ? tile_columns : 1;
  for (std::int64_t k = 0; k < t.k; k += block) {
    const std::int64_t length = smaller(block, t.k - k);
    if (wide)
      dot_wide(t.x + k, w + k, t.w_stride, length, sums + n);
    else if (columns == tile_columns)
      dot_rows_fetching<Weight>(t.x + k, t.x_stride, t.m, w + k, t.w_stride, length, sums + n, sums_stride,
                                {w + k + tile_columns * t.w_stride, t.w_stride});
    else
      dot_row<Weight>(t.x + k, t.x_stride, t.m, w + k, length, sums + n, sums_stride);
  }
  return columns;
}

/// The same for one block of k.
template <class Weight>
std::int64_t many_rows(const LinearTask& t, std::int64_t n, std::int64_t k, std::int64_t length, float* sums,
                       std::int64_t sums_stride, float* widened) {
  const auto* w = static_cast<const Weight*>(t.w) + n * t.w_stride + k;
  const std::int64_t columns = n + tile_columns <= t.n ? tile_columns : 1;
  if constexpr (is_float<Weight>) {
    if (columns == tile_columns && t.w_stride % a_page_of_floats != 0) {
      dot_rows_fetching<float>(t.x + k, t.x_stride, t.m, w, t.w_stride, length, sums + n, sums_stride,
                               {w + columns * t.w_stride, t.w_stride});
      return columns;
    }
  }
  for (std::int64_t i = 0; i < columns; ++i) widen<Weight>(w + i * t.w_stride, widened + i * length, length);
  if (columns == tile_columns)
    dot_rows_fetching<Weight, float>(t.x + k, t.x_stride, t.m, widened, length, length, sums + n, sums_stride,
                                     {w + columns * t.w_stride, t.w_stride});
  else
    dot_row<float>(t.x + k, t.x_stride, t.m, widened, length, sums + n, sums_stride);
  return columns;
}

template <class Weight>
void linear(const LinearTask& t) {
  const std::int64_t sums_stride = (t.n + tile_columns - 1) / tile_columns * tile_columns;
  float* const sums = t.scratch;
  float* const widened = sums + t.m * sums_stride;
  for (std::int64_t i = 0; i < t.m * sums_stride; ++i) sums[i] = 0.0F;
  if (t.m <= most_few_rows) {
    for (std::int64_t n = 0; n < t.n;) n += few_rows<Weight>(t, n, sums, sums_stride);
  } else {
    const std::int64_t block = block_length(t.k, most_columns_in_a_block);
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
