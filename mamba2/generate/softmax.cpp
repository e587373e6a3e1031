#include "mamba2/generate/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mamba2 {

namespace {

constexpr float ruled_out = -std::numeric_limits<float>::infinity();

float largest(std::span<const float> scores) {
  return scores.empty() ? ruled_out : *std::max_element(scores.begin(), scores.end());
}

}  // namespace

std::vector<float> softmax(std::span<const float> scores) {
  const float highest = largest(scores);
  std::vector<float> probabilities(scores.size());
  double sum = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] == ruled_out && highest != ruled_out) continue;  // a cut distribution is mostly these
    probabilities[i] = std::exp(scores[i] - highest);
    sum += probabilities[i];
  }
  const auto divisor = static_cast<float>(sum);
  for (float& probability : probabilities) probability /= divisor;
  return probabilities;
}

void log_softmax(std::span<float> scores) {
  const float highest = largest(scores);
  if (highest == ruled_out) return;
  double sum = 0;
  for (const float score : scores) sum += std::exp(score - highest);
  const auto log_sum = static_cast<float>(std::log(sum));
  for (float& score : scores) score = score - highest - log_sum;
}

}  // namespace mamba2
