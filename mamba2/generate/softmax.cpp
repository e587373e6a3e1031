#include "mamba2/generate/softmax.h"

#include <algorithm>
#include <cmath>

#include "mamba2/generate/ranking.h"

namespace mamba2 {

std::vector<float> softmax(std::span<const float> scores) {
  const float most = highest(scores);
  std::vector<float> probabilities(scores.size());
  double sum = 0;
  for (std::size_t begin = 0; begin < scores.size(); begin += scores_together) {
    const auto part = scores.subspan(begin, std::min(scores_together, scores.size() - begin));
    if (most != ruled_out && highest(part) == ruled_out && !any_nan(part)) continue;
    for (std::size_t i = begin; i < begin + part.size(); ++i) {
      if (scores[i] == ruled_out && most != ruled_out) continue;
      probabilities[i] = std::exp(scores[i] - most);
      sum += probabilities[i];
    }
  }
  const auto divisor = static_cast<float>(sum);
  for (float& probability : probabilities) probability /= divisor;
  return probabilities;
}

void log_softmax(std::span<float> scores) {
  const float most = highest(scores);
  if (most == ruled_out && !any_nan(scores)) return;
  double sum = 0;
  for (const float score : scores) sum += std::exp(score - most);
  const auto log_sum = static_cast<float>(std::log(sum));
  for (float& score : scores) score = score - most - log_sum;
}

}  // namespace mamba2
