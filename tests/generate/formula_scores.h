#pragma once

#include <cstdint>

namespace mamba2 {

/// A hash of a history and a token in [0, 1), the same as in make_searches.py and make_warpers.py.
inline double formula_share(std::uint32_t history, std::int64_t token) {
  std::uint32_t x = history ^ (static_cast<std::uint32_t>(token) + 1) * 2654435761U;
  for (int round = 0; round < 2; ++round) {
    x = (x ^ (x >> 15U)) * 2246822519U;
    x = (x ^ (x >> 13U)) * 3266489917U;
  }
  return (x ^ (x >> 16U)) / 4294967296.0;
}

}  // namespace mamba2
