#include "mamba2/generate/ranking.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

namespace mamba2 {

namespace {

/// An integer that orders as the score does, so that sorting has a strict order with NaN too.
std::uint64_t rank_of(float score) {
  if (std::isnan(score)) return 0xFFFFFFFFU;
  const auto bits = std::bit_cast<std::uint32_t>(score + 0.0F);  // -0 becomes +0
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

}  // namespace

std::vector<std::size_t> largest_indices(std::span<const float> scores, std::size_t count, Ties ties) {
  const std::uint64_t flip = ties == Ties::lower_index_first ? 0xFFFFFFFFU : 0;
  std::vector<std::uint64_t> keys(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) keys[i] = (rank_of(scores[i]) << 32U) | (i ^ flip);
  std::vector<std::uint64_t> best(std::min(count, keys.size()));
  std::partial_sort_copy(keys.begin(), keys.end(), best.begin(), best.end(), std::greater<>());
  std::vector<std::size_t> indices(best.size());
  std::transform(best.begin(), best.end(), indices.begin(),
                 [&](std::uint64_t key) { return (key & 0xFFFFFFFFU) ^ flip; });
  return indices;
}

float nth_largest(std::span<const float> scores, std::size_t count) {
  return scores[largest_indices(scores, count, Ties::lower_index_first).back()];
}

}  // namespace mamba2
