#include "mamba2/generate/sampler.h"

#include <algorithm>
#include <cmath>

#include "mamba2/base/error.h"
#include "mamba2/base/random.h"
#include "mamba2/generate/ranking.h"
#include "mamba2/generate/softmax.h"

namespace mamba2 {

namespace {

/// Tokens looked at together, in vectors: most stretches of a cut distribution have none left.

/// Steele et al. 2014, "Fast splittable pseudorandom number generators": the finaliser of SplitMix64.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31U);
}

/// The weight of each token, 0 where it can't be drawn, and their sum.
struct Weights {
  std::vector<float> weights;
  double sum = 0;
};

Weights weights_of(std::span<const float> scores) {
  require(!any_nan(scores), "a score of the next token is NaN; remove_invalid_values would replace it");
  const float most = highest(scores);
  require(most != ruled_out, "the generation config rules out every next token");
  require(std::isfinite(most), "a score of the next token is infinite; remove_invalid_values would replace it");
  Weights result{.weights = std::vector<float>(scores.size()), .sum = 0};
  for (std::size_t begin = 0; begin < scores.size(); begin += scores_together) {
    const std::size_t end = std::min(begin + scores_together, scores.size());
    if (highest(scores.subspan(begin, end - begin)) == ruled_out) continue;
    for (std::size_t i = begin; i < end; ++i) {
      if (scores[i] == ruled_out) continue;
      result.weights[i] = std::exp(scores[i] - most);
      result.sum += static_cast<double>(result.weights[i]);
    }
  }
  return result;
}

/// The token whose weight lies under the point uniform * sum; never one whose weight is 0.
std::size_t draw(const Weights& from, double uniform) {
  const double point = uniform * from.sum;
  double sum = 0;
  std::size_t last = 0;  // where rounding carries the point past the sum
  const std::span<const float> weights(from.weights);
  for (std::size_t begin = 0; begin < weights.size() && sum <= point; begin += scores_together) {
    const std::size_t end = std::min(begin + scores_together, weights.size());
    if (highest(weights.subspan(begin, end - begin)) == 0) continue;
    for (std::size_t i = begin; i < end && sum <= point; ++i) {
      if (weights[i] == 0) continue;
      sum += static_cast<double>(weights[i]);
      last = i;
    }
  }
  return last;
}

}  // namespace

SequenceRandom::SequenceRandom(std::uint64_t seed, std::span<const std::int32_t> prompt, std::int64_t copy)
    : seed_(seed), stream_(mix(static_cast<std::uint64_t>(copy) + 0x9E3779B97F4A7C15ULL)) {
  for (const std::int32_t id : prompt) stream_ = mix(stream_ ^ static_cast<std::uint32_t>(id)) + 0x9E3779B97F4A7C15ULL;
}

double SequenceRandom::uniform(std::int64_t step, std::int64_t draw) const {
  const auto words = philox({static_cast<std::uint32_t>(seed_), static_cast<std::uint32_t>(seed_ >> 32U)},
                            {static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(draw),
                             static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32U)});
  const std::uint64_t bits = words[0] | (static_cast<std::uint64_t>(words[1]) << 32U);
  return static_cast<double>(bits >> 11U) * 0x1p-53;
}

std::int32_t argmax(std::span<const float> scores) {
  if (any_nan(scores)) {
    const auto invalid = std::ranges::find_if(scores, [](float score) { return std::isnan(score); });
    fail("the score of token {} is NaN; remove_invalid_values would replace it", invalid - scores.begin());
  }
  return static_cast<std::int32_t>(std::ranges::find(scores, highest(scores)) - scores.begin());
}

std::int32_t sample(std::span<const float> scores, double uniform) {
  return static_cast<std::int32_t>(draw(weights_of(scores), uniform));
}

std::vector<std::size_t> sample_without_replacement(std::span<const float> scores, std::size_t count,
                                                    const std::function<double(std::int64_t)>& uniform) {
  Weights weights = weights_of(scores);
  std::vector<std::size_t> drawn;
  const auto positive = std::ranges::count_if(weights.weights, [](float weight) { return weight > 0; });
  const std::size_t possible = std::min(count, static_cast<std::size_t>(positive));
  while (drawn.size() < possible) {
    drawn.push_back(draw(weights, uniform(std::ssize(drawn))));
    weights.weights[drawn.back()] = 0;
    // Summed anew: subtracting from the sum would leave the rounding of what was taken.
    weights.sum = 0;
    for (const float weight : weights.weights) weights.sum += static_cast<double>(weight);
  }
  if (drawn.size() < count) {
    for (const std::size_t index : largest_indices(scores, count, Ties::lower_index_first)) {
      if (drawn.size() == count) break;
      if (std::find(drawn.begin(), drawn.end(), index) == drawn.end()) drawn.push_back(index);
    }
  }
  return drawn;
}

}  // namespace mamba2
