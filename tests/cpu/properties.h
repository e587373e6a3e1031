#pragma once

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstdint>
#include <vector>

#include "tests/cpu/operands.h"

namespace mamba2::test {

/// Runs a property over random cases until one makes a gtest expectation fail, and shrinks that.
template <class Property>
void for_random_cases(Property&& property) {
  const bool held = rc::check([&] {
    property();
    RC_ASSERT(!testing::Test::HasNonfatalFailure());
  });
  EXPECT_TRUE(held);
}

inline std::int64_t any_of(std::initializer_list<std::int64_t> values) {
  return *rc::gen::elementOf(std::vector<std::int64_t>(values));
}
inline std::int64_t from_to(std::int64_t first, std::int64_t last) {
  return *rc::gen::inRange<std::int64_t>(first, last + 1);
}
inline std::uint64_t any_seed() {
  return *rc::gen::inRange<std::uint64_t>(0, 1 << 30);
}

/// Lengths of up to four sequences; empty ones, single tokens and the chunk's edges are likely.
inline std::vector<std::int64_t> any_lengths() {
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(from_to(1, 4)));
  for (std::int64_t& length : lengths) length = any_of({0, 1, 2, 3, 11, 12, 20, 63, 64, 65, 129});
  return lengths;
}

}  // namespace mamba2::test
