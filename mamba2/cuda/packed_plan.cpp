#include "mamba2/cuda/packed_plan.h"

#include <algorithm>

#include "mamba2/cuda/packed_weight.h"

namespace mamba2::cuda {
namespace {

constexpr int enough_stages = 2;
constexpr int reserved_bytes = 1 << 10;  // of a multiprocessor's shared memory, for each block

/// Bytes of a warp's stage: a unit of a whole tile.
int stage_bytes(const PackedShape& shape) {
  return static_cast<int>(packed_bytes(shape.dtype, packed_tile_rows, unit_columns));
}

/// The plan's places for so many rows of x, without stages.
PackedPlan without_stages(const PackedShape& shape, int rows) {
  PackedPlan plan;
  plan.rows = rows;
  plan.columns = rows * shape.parts;
  plan.units = (shape.inputs + unit_columns - 1) / unit_columns;
  const int blocks = plan.units * unit_blocks;
  constexpr int float_bytes = sizeof(float);
  int at = 0;
  auto take = [&](int bytes) { return at += bytes, at - bytes; };
  // the squares of a norm's rows lie first
  take(packed_warps * packed_most_rows(3) * float_bytes);
  plan.sums_at = take(2 * packed_warps * plan.columns * packed_sums_stride * float_bytes);
  const bool super_blocks = shape.dtype == DType::q4_k || shape.dtype == DType::q6_k;
  plan.scales_at = take(super_blocks ? packed_warps * packed_tile_rows * packed_scales_stride * float_bytes : 0);
  plan.x_sums_at = take(shape.dtype == DType::q4_k ? blocks * plan.sets() * packed_set_columns * float_bytes : 0);
  plan.x_at = take(blocks * plan.columns * block_columns * 2);
  plan.ring_at = plan.bytes = at;
  return plan;
}

/// Stages beside what else is in shared memory: where there is room for the next kernel's block too, else for this
/// alone.
int stages_beside(const PackedPlan& plan, int stage, int shared_bytes) {
  const int half = (shared_bytes + reserved_bytes) / 2 - reserved_bytes;
  const int with_another = (half - plan.ring_at) / (packed_warps * stage);
  const int stages =
      with_another >= enough_stages ? with_another : (shared_bytes - plan.ring_at) / (packed_warps * stage);
  return std::clamp(stages, 0, packed_most_stages);
}

}  // namespace

PackedPlan packed_plan(const PackedShape& shape, int multiprocessors, int shared_bytes) {
  constexpr int longest = 1 << 20;  // past what any shared memory holds; byte counts stay within int
  if (shape.inputs > longest) return {};
  const int stage = stage_bytes(shape);
  const int most_rows = packed_most_rows(shape.parts);
  int rows = static_cast<int>(std::min<std::int64_t>(most_rows, shape.rows));
  auto fits = [&](int count, int stages) {
    return stages_beside(without_stages(shape, count), stage, shared_bytes) >= stages;
  };
  while (rows > 1 && !fits(rows, enough_stages)) --rows;
  if (rows < 1 || !fits(rows, 1)) return {};
  const std::int64_t passes = (shape.rows + rows - 1) / rows;
  PackedPlan plan = without_stages(shape, static_cast<int>((shape.rows + passes - 1) / passes));
  plan.stages = stages_beside(plan, stage, shared_bytes);
  plan.bytes = plan.ring_at + packed_warps * plan.stages * stage;
  plan.fours = (shape.outputs + four_rows - 1) / four_rows;
  plan.block_fours = std::max(1, (plan.fours + multiprocessors - 1) / multiprocessors);
  plan.blocks = (plan.fours + plan.block_fours - 1) / plan.block_fours;
  return plan;
}

}  // namespace mamba2::cuda
