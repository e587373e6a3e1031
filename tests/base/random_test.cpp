#include "mamba2/base/random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mamba2 {
namespace {

// Known answers from the authors' own test vectors (Random123, kat_vectors, philox4x32 10).
TEST(Philox, GivesTheAuthorsKnownAnswers) {
  EXPECT_EQ(philox({0, 0}, {0, 0, 0, 0}),
            (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
            (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, SameSeedAndStreamGiveTheSameWords) {
  Random a(7, 3), b(7, 3), other_stream(7, 4);
  bool differs = false;
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t word = a.next_u64();
    EXPECT_EQ(word, b.next_u64());
    differs = differs || word != other_stream.next_u64();
  }
  EXPECT_TRUE(differs);
}

TEST(Random, NormalHasMeanZeroAndDeviationOne) {
  Random random(1);
  constexpr int n = 100'000;
  double sum = 0, squares = 0;
  for (int i = 0; i < n; ++i) {
    const double value = random.normal();
    sum += value;
    squares += value * value;
  }
  // five standard errors: 1/sqrt(n) of the mean, sqrt(2/n) of the variance
  EXPECT_NEAR(sum / n, 0.0, 5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1.0, 5 * std::sqrt(2.0 / n));
}

}  // namespace
}  // namespace mamba2
