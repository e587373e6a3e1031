#include "mamba2/generate/ranking.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <limits>

namespace mamba2 {

namespace {

/// An integer that orders as the score does, so that comparing has a strict order with NaN too.
std::int32_t rank_of(float score) {
  const auto bits = std::bit_cast<std::int32_t>(score + 0.0F);  // -0 becomes +0
  const std::int32_t ordered = bits ^ ((bits >> 31) & std::numeric_limits<std::int32_t>::max());
  return score != score ? std::numeric_limits<std::int32_t>::max() : ordered;
}

/// The score that has this rank.
float score_of(std::int32_t rank) {
  return std::bit_cast<float>(rank ^ ((rank >> 31) & std::numeric_limits<std::int32_t>::max()));
}

/// The largest keys of those given, in a list that is cut back as it overflows.  A key is a rank and, in the lower
/// half, the place among equals.
class LargestKeys {
 public:
  explicit LargestKeys(std::size_t count) : count_(count), overflow_(2 * count + 64) { keys_.reserve(overflow_); }

  /// Whether a key of this rank may be among the largest; of equal ranks the first ones given stay.
  bool may_take(std::int32_t rank) const { return rank > least_; }
  /// The same of scores, in vectors: false where none of them may be.
  bool may_take_any(std::span<const float> scores) const {
    std::uint32_t found = full_ ? 0 : 1;
    for (const float score : scores) found |= score <= least_score_ ? 0U : 1U;  // NaN may be
    return found != 0;
  }

  void take(std::int64_t key) {
    keys_.push_back(key);
    if (keys_.size() == overflow_) cut_back();
  }

  /// Largest first.
  std::span<const std::int64_t> sorted() {
    cut_back();
    std::sort(keys_.begin(), keys_.end(), std::greater<>());
    return keys_;
  }

 private:
  void cut_back() {
    if (keys_.size() <= count_) return;
    const auto last = keys_.begin() + static_cast<std::ptrdiff_t>(count_) - 1;
    std::nth_element(keys_.begin(), last, keys_.end(), std::greater<>());
    keys_.resize(count_);
    full_ = true;
    least_ = static_cast<std::int32_t>(keys_.back() >> 32);
    least_score_ = score_of(least_);
  }

  std::size_t count_, overflow_;
  std::vector<std::int64_t> keys_;
  bool full_ = false;  // count_ keys are there, those from least_ up
  std::int32_t least_ = std::numeric_limits<std::int32_t>::min();
  float least_score_ = 0;
};

}  // namespace

std::vector<std::size_t> largest_indices(std::span<const float> scores, std::size_t count, Ties ties) {
  count = std::min(count, scores.size());
  if (count == 0) return {};
  const std::uint32_t flip = ties == Ties::lower_index_first ? 0xFFFFFFFFU : 0;
  LargestKeys largest(count);
  // Best places first, so that of equal scores, of which a cut distribution has many, none comes too late.
  constexpr std::size_t block = 64;  // scores looked at together; most blocks have none that counts
  const std::size_t blocks = (scores.size() + block - 1) / block;
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::size_t begin = (flip != 0 ? b : blocks - 1 - b) * block;
    const std::size_t size = std::min(block, scores.size() - begin);
    if (!largest.may_take_any(scores.subspan(begin, size))) continue;
    for (std::size_t step = 0; step < size; ++step) {
      const std::size_t i = begin + (flip != 0 ? step : size - 1 - step);
      const std::int32_t rank = rank_of(scores[i]);
      if (!largest.may_take(rank)) continue;
      const auto place = static_cast<std::uint32_t>(i) ^ flip;
      largest.take((static_cast<std::int64_t>(rank) << 32) | static_cast<std::int64_t>(place));
    }
  }
  std::vector<std::size_t> indices;
  indices.reserve(count);
  for (const std::int64_t key : largest.sorted()) indices.push_back(static_cast<std::uint32_t>(key) ^ flip);
  return indices;
}

float nth_largest(std::span<const float> scores, std::size_t count) {
  return scores[largest_indices(scores, count, Ties::lower_index_first).back()];
}

float highest(std::span<const float> scores) {
  constexpr std::size_t lanes = 16;  // so many maxima side by side, since each waits for the one before
  std::array<float, lanes> best{};
  best.fill(-std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + lanes <= scores.size(); i += lanes)
    for (std::size_t lane = 0; lane < lanes; ++lane)
      best[lane] = scores[i + lane] > best[lane] ? scores[i + lane] : best[lane];
  for (; i < scores.size(); ++i) best[0] = scores[i] > best[0] ? scores[i] : best[0];
  return *std::max_element(best.begin(), best.end());
}

bool any_nan(std::span<const float> scores) {
  std::uint32_t found = 0;
  for (const float score : scores) found |= score != score ? 1U : 0U;
  return found != 0;
}

}  // namespace mamba2
