// What the host decides before a launch: sizes of grids and of pieces.
#include <gtest/gtest.h>

#include "mamba2/cuda/grid.h"
#include "mamba2/cuda/piece_tokens.h"

namespace mamba2::cuda {
namespace {

TEST(GridOfRows, HoldsEveryRowWithinWhatAGridMayHave) {
  for (const std::int64_t rows : {0, 1, 2, 65534, 65535, 65536, 131070, 131071, 1000003, 200000000}) {
    const dim3 grid = grid_of_rows(3, rows);
    EXPECT_EQ(grid.x, 3U);
    EXPECT_LE(grid.y, 65535U);
    EXPECT_LE(grid.z, 65535U);
    const std::int64_t held = static_cast<std::int64_t>(grid.y) * grid.z;
    EXPECT_GE(held, rows);
    EXPECT_LT(held, rows + static_cast<std::int64_t>(grid.z)) << "less than a row too many a layer";
  }
}

constexpr std::int64_t gigabyte = 1'000'000'000;

TEST(PieceTokens, AreTheMostWhoseBuffersTakeAnEighthOfFreeMemory) {
  constexpr std::int64_t bytes_2_7b = 125'568, bytes_codestral = 214'016;
  EXPECT_EQ(piece_tokens(bytes_2_7b, 135 * gigabyte), 8192);
  EXPECT_EQ(piece_tokens(bytes_codestral, 60 * gigabyte), 8192);
  EXPECT_EQ(piece_tokens(bytes_codestral, 8 * gigabyte), 4096);
  EXPECT_EQ(piece_tokens(bytes_codestral, 4 * gigabyte), 2048);
  EXPECT_EQ(piece_tokens(bytes_codestral, 0), 1024) << "a piece at least, which may then be out of memory";
  for (const std::int64_t free : {2 * gigabyte, 9 * gigabyte, 20 * gigabyte})
    EXPECT_LE(bytes_2_7b * piece_tokens(bytes_2_7b, free), free / 8);
}

}  // namespace
}  // namespace mamba2::cuda
