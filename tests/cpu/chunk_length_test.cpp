#include "mamba2/cpu/chunk_length.h"

#include <gtest/gtest.h>

namespace mamba2::cpu {
namespace {

constexpr std::int64_t l2 = 256 * 1024;

TEST(ChunkLength, IsTheBestOfTheMeasuredCurveForThePublishedModels) {
  EXPECT_EQ(chunk_length(64, 128, l2), 32);
}

TEST(ChunkLength, IsAMultipleOf16WhateverTheShape) {
  for (std::int64_t head_dim = 1; head_dim <= 1024; head_dim *= 2)
    for (std::int64_t state_size = 1; state_size <= 4096; state_size *= 2) {
      const std::int64_t chunk = chunk_length(head_dim, state_size, l2);
      EXPECT_GE(chunk, 16);
      EXPECT_LE(chunk, 128);
      EXPECT_EQ(chunk % 16, 0);
    }
}

TEST(ChunkLength, GrowsWithTheStateThatAChunkPassesOver) {
  std::int64_t last = 0;
  for (const std::int64_t state_size : {16, 64, 128, 256, 512}) {
    EXPECT_GE(chunk_length(64, state_size, l2), last);
    last = chunk_length(64, state_size, l2);
  }
  EXPECT_GT(last, chunk_length(64, 16, l2));
}

TEST(ChunkLength, GrowsWhereTheStateDoesNotFitTheCache) {
  EXPECT_GT(chunk_length(64, 128, 32 * 1024), chunk_length(64, 128, l2));
}

}  // namespace
}  // namespace mamba2::cpu
