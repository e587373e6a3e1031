#include "mamba2/cpu/linear_plan.h"

#include <unistd.h>

#include <algorithm>

namespace mamba2::cpu {
namespace {

// Fewer rows cost what reading the weights costs in either form, and the widened one is the more exact.
constexpr std::int64_t rounded_from_rows = 5;
// Taking weights apart pays once for all rows.
constexpr std::int64_t split_from_rows = 32;
// Smaller matrices (2 MiB, what an L2 cache holds) take little time in either form: small models keep f32's digits.
constexpr std::int64_t rounded_from_elements = std::int64_t{1} << 20;

// Elements of the weight that a block reads at least, so that handing it out costs nothing beside.
constexpr std::int64_t least_elements = 32 * 1024;
constexpr std::int64_t most_columns = 64, least_columns = 32;  // 32: the panel of the kernel with the largest one
// Blocks a thread where the shape has as many: the last ones to finish are then a small part of the whole.
constexpr std::int64_t blocks_a_thread = 6;

// A multiple of every kernel's tile (3, 6 and 16 rows), and what the tiles of AMX take at a time.
constexpr std::int64_t rows_step = 48, rows_step_of_tiles = 32;

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// Rows of x of which half the L2 cache holds what passes by the weights at a time, in blocks of equal height.
std::int64_t rows_in_block(std::int64_t rows, std::int64_t row_bytes, std::int64_t l2_bytes, std::int64_t step) {
  const std::int64_t most = std::max(step, l2_bytes / 2 / row_bytes / step * step);
  const std::int64_t blocks = divide_up(rows, most);
  return divide_up(divide_up(rows, blocks), step) * step;
}

LinearForm form_of(std::int64_t rows, std::int64_t n, std::int64_t k, WeightType type, const LinearMachine& machine) {
  const bool always = machine.bf16_products == Bf16Products::always, large = n * k >= rounded_from_elements;
  if (type == WeightType::bf16 && machine.isa >= Isa::avx512_bf16)
    return always || (large && rows >= rounded_from_rows) ? LinearForm::rounded : LinearForm::widened;
  if (type == WeightType::f16 && machine.isa == Isa::amx)
    return !always && large && rows >= split_from_rows ? LinearForm::split : LinearForm::widened;
  return LinearForm::widened;
}

}  // namespace

LinearPlan linear_plan(std::int64_t rows, std::int64_t n, std::int64_t k, WeightType type,
                       const LinearMachine& machine) {
  const LinearForm form = form_of(rows, n, k, type, machine);
  const std::int64_t columns = std::max<std::int64_t>(k, 1);
  const std::int64_t row_bytes = form == LinearForm::split     ? 4 * rounded_columns(k)
                                 : form == LinearForm::rounded ? 2 * rounded_columns(k)
                                                               : 4 * std::min(columns, most_columns_in_a_block);
  const bool by_tiles = form != LinearForm::widened && machine.isa == Isa::amx;
  const std::int64_t step = by_tiles ? rows_step_of_tiles : rows_step;

  LinearPlan plan{.form = form,
                  .rows_in_block = rows_in_block(std::max<std::int64_t>(rows, 1), row_bytes, machine.l2_bytes, step),
                  .columns_in_block = std::max(most_columns, least_elements / columns / most_columns * most_columns)};
  const std::int64_t row_blocks = divide_up(rows, plan.rows_in_block);
  while (plan.columns_in_block > least_columns && plan.columns_in_block * columns > least_elements &&
         row_blocks * divide_up(n, plan.columns_in_block) < blocks_a_thread * machine.threads)
    plan.columns_in_block /= 2;
  return plan;
}

std::int64_t l2_cache_bytes() {
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? bytes : 512 * 1024;
}

/// Intel's processors fetch too little of a stream by themselves: 4 KiB ahead, a product by one row reads 1.4 to 2.8
/// times as much a second.  AMD's do not, and are slower when told (docs/performance.md).
std::int64_t quantized_weights_ahead() {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel") ? 4096 : 0;
#else
  return 0;
#endif
}

}  // namespace mamba2::cpu
