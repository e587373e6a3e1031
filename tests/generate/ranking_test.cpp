#include "mamba2/generate/ranking.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

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

TEST(Ranking, IsThatOfASortWhateverTheLengthTheCountAndTheTies) {
  for (const std::size_t length : {1U, 31U, 32U, 33U, 100U, 1000U}) {
    std::vector<float> scores;  // few different values, -inf among them, so that ties are everywhere
    for (std::size_t i = 0; i < length; ++i) {
      const auto level = static_cast<float>(i * i * 7 % 13);
      scores.push_back(level < 6 ? -infinity : level);
    }
    for (const Ties ties : {Ties::lower_index_first, Ties::higher_index_first}) {
      Indices sorted(length);
      std::iota(sorted.begin(), sorted.end(), 0U);
      if (ties == Ties::higher_index_first) std::reverse(sorted.begin(), sorted.end());
      std::stable_sort(sorted.begin(), sorted.end(), [&](auto a, auto b) { return scores[a] > scores[b]; });
      for (const std::size_t count : {1U, 5U, 32U, 70U, 999U}) {
        const Indices expected(sorted.begin(), sorted.begin() + std::ptrdiff_t(std::min<std::size_t>(count, length)));
        EXPECT_EQ(largest_indices(scores, count, ties), expected) << length << ", " << count;
      }
    }
  }
}

TEST(Ranking, FindsTheHighestAndNaN) {
  for (const std::size_t length : {1U, 15U, 16U, 40U}) {
    std::vector<float> scores(length, -2);
    scores[length / 2] = 3;
    EXPECT_EQ(highest(scores), 3);
    EXPECT_FALSE(any_nan(scores));
    scores[length - 1] = std::nanf("");
    EXPECT_TRUE(any_nan(scores));
    EXPECT_EQ(highest(scores), length == 1 ? -infinity : 3);
  }
  EXPECT_EQ(highest({}), -infinity);
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
