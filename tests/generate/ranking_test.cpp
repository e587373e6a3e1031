#include "mamba2/generate/ranking.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace mamba2 {
namespace {

using Indices = std::vector<std::size_t>;
constexpr float infinity = std::numeric_limits<float>::infinity();

TEST(Ranking, PutsTheLargestFirst) {
  EXPECT_EQ(largest_indices(std::vector<float>{1, -3, 2.5F, 2}, 3, Ties::lower_index_first), (Indices{2, 3, 0}));
}

TEST(Ranking, BreaksTiesAsAsked) {
  const std::vector<float> scores{0.0F, -0.0F, 1, 0.0F};
  EXPECT_EQ(largest_indices(scores, 3, Ties::lower_index_first), (Indices{2, 0, 1}));
  EXPECT_EQ(largest_indices(scores, 3, Ties::higher_index_first), (Indices{2, 3, 1}));
}

TEST(Ranking, OrdersInfinitiesAndNaN) {
  const std::vector<float> scores{-infinity, infinity, -std::nanf(""), -1};
  EXPECT_EQ(largest_indices(scores, 4, Ties::lower_index_first), (Indices{2, 1, 3, 0}));
}

TEST(Ranking, GivesAllWhereMoreAreAskedFor) {
  EXPECT_EQ(largest_indices(std::vector<float>{1, 2}, 9, Ties::lower_index_first), (Indices{1, 0}));
}

TEST(Ranking, CountsEqualScoresForTheNthLargest) {
  EXPECT_EQ(nth_largest(std::vector<float>{5, 4, 5, 1}, 2), 5);
  EXPECT_EQ(nth_largest(std::vector<float>{5, 4, 5, 1}, 3), 4);
}

}  // namespace
}  // namespace mamba2
