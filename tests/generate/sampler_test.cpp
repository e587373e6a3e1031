#include "mamba2/generate/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "mamba2/base/error.h"
#include "mamba2/generate/softmax.h"

namespace mamba2 {
namespace {

using Ids = std::vector<std::int32_t>;
constexpr float infinity = std::numeric_limits<float>::infinity();

/// Sum of (observed - expected)^2 / expected.
double chi_square(const std::vector<double>& observed, const std::vector<double>& expected) {
  double sum = 0;
  for (std::size_t i = 0; i < observed.size(); ++i) sum += std::pow(observed[i] - expected[i], 2) / expected[i];
  return sum;
}

/// Above this with a probability of 1e-6 for k degrees of freedom (Wilson and Hilferty 1931): 4.753 deviations.
double chi_square_limit(double k) {
  return k * std::pow(1 - 2 / (9 * k) + 4.753 * std::sqrt(2 / (9 * k)), 3);
}

TEST(Sample, FollowsTheSoftmaxByChiSquare) {
  const std::vector<float> scores{0.5F, -1, 2, 1.5F, -infinity, 0, 1, -0.5F, 0.25F, 2.25F};
  const std::vector<float> probabilities = softmax(scores);
  constexpr int draws = 200000;
  const SequenceRandom random(7, Ids{1, 2, 3}, 0);
  std::vector<double> observed(scores.size()), expected;
  for (int i = 0; i < draws; ++i) ++observed[static_cast<std::size_t>(sample(scores, random.uniform(i, 0)))];
  EXPECT_EQ(observed[4], 0);
  observed.erase(observed.begin() + 4);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (i != 4) expected.push_back(static_cast<double>(probabilities[i]) * draws);
  }
  EXPECT_LT(chi_square(observed, expected), chi_square_limit(8));
}

TEST(Sample, IsAsRandomOverSeedsAndPromptsAsOverSteps) {
  const std::vector<float> even(8, 0.0F);
  constexpr int draws = 80000;
  std::vector<double> by_seed(8), by_prompt(8), by_copy(8);
  for (int i = 0; i < draws; ++i) {
    ++by_seed[static_cast<std::size_t>(
        sample(even, SequenceRandom(static_cast<std::uint64_t>(i), Ids{5}, 0).uniform(0, 0)))];
    ++by_prompt[static_cast<std::size_t>(sample(even, SequenceRandom(1, Ids{i, 5}, 0).uniform(0, 0)))];
    ++by_copy[static_cast<std::size_t>(sample(even, SequenceRandom(1, Ids{5}, i).uniform(0, 0)))];
  }
  const std::vector<double> expected(8, draws / 8.0);
  EXPECT_LT(chi_square(by_seed, expected), chi_square_limit(7));
  EXPECT_LT(chi_square(by_prompt, expected), chi_square_limit(7));
  EXPECT_LT(chi_square(by_copy, expected), chi_square_limit(7));
}

TEST(Sample, TakesTheTokenUnderThePointOfTheCumulativeSum) {
  const std::vector<float> thirds{0, -infinity, 0, 0};
  EXPECT_EQ(sample(thirds, 0.0), 0);
  EXPECT_EQ(sample(thirds, 0.34), 2);
  EXPECT_EQ(sample(thirds, 0.99), 3);
}

TEST(Sample, NeverTakesARuledOutToken) {
  EXPECT_EQ(sample(std::vector<float>{-infinity, 1, -infinity}, 0.0), 1);
  EXPECT_EQ(sample(std::vector<float>{-infinity, 1, -infinity}, std::nextafter(1.0, 0.0)), 1);
}

TEST(Sample, RefusesNaNInfinityAndNoTokenAtAll) {
  EXPECT_THROW(sample(std::vector<float>{0, std::nanf("")}, 0.5), Error);
  EXPECT_THROW(sample(std::vector<float>{0, infinity}, 0.5), Error);
  EXPECT_THROW(sample(std::vector<float>{-infinity, -infinity}, 0.5), Error);
}

TEST(SampleWithoutReplacement, FollowsTheProbabilityOfEachOrderByChiSquare) {
  // P(i, then j) = p_i p_j / (1 - p_i).
  const std::vector<float> scores{1, 0, -0.5F, 0.5F};
  const std::vector<float> p = softmax(scores);
  constexpr int draws = 120000;
  std::map<std::pair<std::size_t, std::size_t>, double> counts;
  for (int i = 0; i < draws; ++i) {
    const SequenceRandom random(3, Ids{i}, 0);
    const auto two = sample_without_replacement(scores, 2, [&](std::int64_t draw) { return random.uniform(0, draw); });
    ASSERT_EQ(two.size(), 2U);
    ++counts[{two[0], two[1]}];
  }
  std::vector<double> observed, expected;
  for (std::size_t i = 0; i < 4; ++i) {
    for (std::size_t j = 0; j < 4; ++j) {
      if (i == j) continue;
      observed.push_back(counts[{i, j}]);
      expected.push_back(draws * static_cast<double>(p[i]) * static_cast<double>(p[j]) /
                         (1 - static_cast<double>(p[i])));
    }
  }
  EXPECT_LT(chi_square(observed, expected), chi_square_limit(11));
}

TEST(SampleWithoutReplacement, DrawsNothingTwice) {
  const std::vector<float> scores{9, 0, 0, 0};
  auto all = sample_without_replacement(scores, 4, [](std::int64_t) { return 0.5; });
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all, (std::vector<std::size_t>{0, 1, 2, 3}));
}

TEST(SampleWithoutReplacement, FillsUpWithTheBestOfTheImpossible) {
  const std::vector<float> scores{-infinity, 0, -1e9F, -2e9F};
  EXPECT_EQ(sample_without_replacement(scores, 3, [](std::int64_t) { return 0.5; }),
            (std::vector<std::size_t>{1, 2, 3}));
}

TEST(Argmax, TakesTheFirstOfTheLargest) {
  EXPECT_EQ(argmax(std::vector<float>{1, 3, 3}), 1);
  EXPECT_EQ(argmax(std::vector<float>{-infinity, -infinity}), 0);
}

TEST(Argmax, NamesTheTokenThatIsNaN) {
  try {
    argmax(std::vector<float>{1, std::nanf("")});
    FAIL() << "took NaN";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the score of token 1 is NaN; remove_invalid_values would replace it");
  }
}

TEST(SequenceRandom, DiffersByStepDrawCopyPromptAndSeed) {
  const double base = SequenceRandom(1, Ids{1, 2}, 0).uniform(0, 0);
  EXPECT_NE(SequenceRandom(1, Ids{1, 2}, 0).uniform(1, 0), base);
  EXPECT_NE(SequenceRandom(1, Ids{1, 2}, 0).uniform(0, 1), base);
  EXPECT_NE(SequenceRandom(1, Ids{1, 2}, 1).uniform(0, 0), base);
  EXPECT_NE(SequenceRandom(1, Ids{2, 1}, 0).uniform(0, 0), base);
  EXPECT_NE(SequenceRandom(2, Ids{1, 2}, 0).uniform(0, 0), base);
  EXPECT_EQ(SequenceRandom(1, Ids{1, 2}, 0).uniform(0, 0), base);
}

}  // namespace
}  // namespace mamba2
