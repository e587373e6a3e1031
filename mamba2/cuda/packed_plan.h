// How the product of packed weights is shared out: pure arithmetic, for host and device.
#pragma once

#include "mamba2/cuda/packed_format.h"

namespace mamba2::cuda {

constexpr int packed_warps = 8;
constexpr int packed_most_stages = 4;
constexpr int packed_tile_fours = 4, packed_tile_rows = packed_tile_fours * four_rows;  // what an instruction takes
/// Columns of a product on tensor cores, each a part of a row of x: eight a set.
constexpr int packed_set_columns = 8, packed_most_sets = 3;
/// Rows of x that W is read once for: of f32, in three parts, and of bf16.
constexpr int packed_most_rows(int parts) {
  return parts == 1 ? packed_most_sets * packed_set_columns : 8;
}
/// Floats from one column of a tile's sums to the next: they start in different banks.
constexpr int packed_sums_stride = 20;
/// Floats from the scales of one row of a tile to the next's, in the same way.
constexpr int packed_scales_stride = 20;

struct PackedShape {
  DType dtype;
  int inputs, outputs;
  std::int64_t rows;  // of x
  int parts;          // numbers of bf16 that an element of x is the sum of: 3 or 1
};

/// Shared memory of a block, in bytes from its start, and what goes where.
struct PackedPlan {
  int rows = 0;     // of x at a time; 0: not even one has room
  int columns = 0;  // rows * parts
  int units = 0;    // of a row of W
  int fours = 0;    // of W
  int block_fours = 0, blocks = 0;
  int stages = 0;  // a warp's: units of a tile that it has under way
  int sums_at = 0, scales_at = 0, x_sums_at = 0, x_at = 0, ring_at = 0, bytes = 0;

  MAMBA2_ANYWHERE int sets() const { return (columns + packed_set_columns - 1) / packed_set_columns; }
};

/// shared_bytes: what a block may have at most, which is all that a multiprocessor has.
PackedPlan packed_plan(const PackedShape& shape, int multiprocessors, int shared_bytes);

/// What a block does: its fours of rows as tiles of nearly equal height, each tile's units one after the other, the
/// whole in equal runs for its warps.
struct PackedShare {
  int first_four, fours, tiles, units;
  int least_fours, taller;  // of a tile; tiles that have one more

  MAMBA2_ANYWHERE PackedShare(const PackedPlan& plan, int block) : units(plan.units) {
    first_four = block * plan.block_fours;
    fours = plan.fours - first_four < plan.block_fours ? plan.fours - first_four : plan.block_fours;
    tiles = (fours + packed_tile_fours - 1) / packed_tile_fours;
    least_fours = fours / tiles;
    taller = fours % tiles;
  }
  /// The tile's first of all fours of W, and their number.
  MAMBA2_ANYWHERE int tile_start(int tile) const {
    return first_four + tile * least_fours + (tile < taller ? tile : taller);
  }
  MAMBA2_ANYWHERE int tile_fours(int tile) const { return least_fours + (tile < taller ? 1 : 0); }
  /// The first of a warp's run of units; that of the warp after the last is their number.
  MAMBA2_ANYWHERE int start_of(int warp) const {
    return static_cast<int>(static_cast<std::int64_t>(tiles) * units * warp / packed_warps);
  }
  MAMBA2_ANYWHERE bool has_units(int warp) const { return start_of(warp) < start_of(warp + 1); }
  /// The last warp whose run begins before the tile ends.
  MAMBA2_ANYWHERE int last_of(int tile) const {
    int last = packed_warps - 1;
    while (start_of(last) >= (tile + 1) * units) --last;
    return last;
  }
};

/// Where a warp is in its run.
struct PackedPlace {
  int tile, unit;

  MAMBA2_ANYWHERE PackedPlace(const PackedShare& share, int number)
      : tile(number / share.units), unit(number % share.units) {}
  MAMBA2_ANYWHERE void next(const PackedShare& share) {
    if (++unit < share.units) return;
    unit = 0;
    ++tile;
  }
};

}  // namespace mamba2::cuda
