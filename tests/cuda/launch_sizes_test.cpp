// What the host decides before a launch: sizes of grids and of pieces.
#include <gtest/gtest.h>

#include "mamba2/cuda/grid.h"
#include "mamba2/cuda/pending_plan.h"
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

/// One token each of sequences of 2.7b.
MixerStepShape decode_of_2_7b(std::int64_t sequences, DType state_dtype) {
  return {.sequences = sequences,
          .num_heads = 80,
          .head_dim = 64,
          .n_groups = 1,
          .state_size = 128,
          .conv_kernel = 4,
          .state_dtype = state_dtype};
}

TEST(PendingInputs, PayWhereTheStatesOfALayerTakeSoManyBytes) {
  constexpr std::int64_t bytes_each = 80 * 64 * 128 * 2, least = 40 * bytes_each;
  EXPECT_FALSE(pending_pays(decode_of_2_7b(39, DType::bf16), least));
  EXPECT_TRUE(pending_pays(decode_of_2_7b(40, DType::bf16), least));
  EXPECT_TRUE(pending_pays(decode_of_2_7b(20, DType::f32), least)) << "twice the bytes each";
  EXPECT_FALSE(pending_pays(decode_of_2_7b(8, DType::f32), 0)) << "so few have the bits that they have alone";
  EXPECT_TRUE(pending_pays(decode_of_2_7b(9, DType::f32), 0));
}

TEST(PendingInputs, AreForTheShapesThatTheKernelIsMadeFor) {
  MixerStepShape shape = decode_of_2_7b(256, DType::f32);
  EXPECT_TRUE(pending_pays(shape, 0));
  for (const std::int64_t state_size : {16, 256}) {
    shape.state_size = state_size;
    EXPECT_FALSE(pending_pays(shape, 0)) << state_size;
  }
  shape = decode_of_2_7b(256, DType::f32);
  shape.head_dim = 32;
  EXPECT_FALSE(pending_pays(shape, 0));
  shape = decode_of_2_7b(256, DType::f32);
  shape.conv_kernel = 5;
  EXPECT_FALSE(pending_pays(shape, 0));
  shape = decode_of_2_7b(256, DType::f32);
  shape.act = mamba2::Activation::gelu;
  EXPECT_FALSE(pending_pays(shape, 0));
  EXPECT_FALSE(pending_pays(decode_of_2_7b(70000, DType::f32), 0)) << "more than a grid has";
}

}  // namespace
}  // namespace mamba2::cuda
