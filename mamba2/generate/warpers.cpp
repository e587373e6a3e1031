#include "mamba2/generate/warpers.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "mamba2/generate/ranking.h"
#include "mamba2/generate/softmax.h"

namespace mamba2 {

namespace {

/// Rules out every token but those in kept.
void keep_only(std::span<const std::size_t> kept, std::span<float> scores) {
  std::vector<float> survivors(kept.size());
  std::transform(kept.begin(), kept.end(), survivors.begin(), [&](std::size_t i) { return scores[i]; });
  std::fill(scores.begin(), scores.end(), ruled_out);
  for (std::size_t i = 0; i < kept.size(); ++i) scores[kept[i]] = survivors[i];
}

/// Rules out tokens less probable than the threshold, unless their score is among the best.
void cut_below(float threshold, std::span<const float> probabilities, std::int64_t min_tokens_to_keep,
               std::span<float> scores) {
  const float kept = nth_largest(scores, std::min(static_cast<std::size_t>(min_tokens_to_keep), scores.size()));
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (probabilities[i] < threshold && scores[i] < kept) scores[i] = ruled_out;
  }
}

/// Sum of -p log p in nats; log_probabilities of -inf count nothing.
double entropy_of(std::span<const float> log_probabilities) {
  double entropy = 0;
  for (const float value : log_probabilities) {
    if (value != ruled_out) entropy -= static_cast<double>(value * std::exp(value));
  }
  return entropy;
}

std::vector<float> log_probabilities_of(std::span<const float> scores) {
  std::vector<float> values(scores.begin(), scores.end());
  log_softmax(values);
  return values;
}

bool none_is_left(std::span<const float> scores) {
  return std::all_of(scores.begin(), scores.end(), [](float score) { return score == ruled_out; });
}

/// In the order of ids, in double; stretches of zeros, which a cut distribution has, add nothing and are passed over.
double sum_of(std::span<const float> probabilities) {
  double sum = 0;
  for (std::size_t begin = 0; begin < probabilities.size(); begin += scores_together) {
    const auto part = probabilities.subspan(begin, std::min(scores_together, probabilities.size() - begin));
    if (highest(part) == 0) continue;
    sum = std::accumulate(part.begin(), part.end(), sum);
  }
  return sum;
}

/// How many of the tokens in order (best first) stay by top_p; `mass` is the probability of all of them together, and
/// what lies outside of order comes after its last.  transformers removes a token where the mass of it and all worse
/// ones is at most 1 - p.  Returns order.size() where even the last stays.
std::size_t count_within(double p, std::span<const std::size_t> order, std::span<const float> probabilities,
                         double mass) {
  const auto removed_mass = static_cast<float>(1 - p);
  std::size_t count = 0;
  while (count < order.size() && static_cast<float>(mass) > removed_mass) {
    mass -= static_cast<double>(probabilities[order[count]]);
    ++count;
  }
  return count;
}

}  // namespace

LogitsProcessor temperature(double temperature) {
  return [divisor = static_cast<float>(temperature)](const History&, std::span<float> scores) {
    for (float& score : scores) score /= divisor;
  };
}

LogitsProcessor top_k(std::int64_t k) {
  return [k](const History&, std::span<float> scores) {
    if (std::ssize(scores) <= k) return;
    const float kept = nth_largest(scores, static_cast<std::size_t>(k));
    for (float& score : scores) score = score < kept ? ruled_out : score;
  };
}

LogitsProcessor top_p(double p, std::int64_t min_tokens_to_keep) {
  return [p, min_tokens_to_keep](const History&, std::span<float> scores) {
    const std::vector<float> probabilities = softmax(scores);
    const double mass = sum_of(probabilities);
    // The best few tokens hold most of the mass as a rule; only a flat distribution needs more of the order.
    std::size_t looked_at = std::max<std::size_t>(64, static_cast<std::size_t>(min_tokens_to_keep));
    for (;; looked_at *= 8) {
      const auto order = largest_indices(scores, looked_at, Ties::higher_index_first);
      const std::size_t within = count_within(p, order, probabilities, mass);
      if (within == order.size() && order.size() < scores.size()) continue;
      const auto least = static_cast<std::size_t>(min_tokens_to_keep);
      keep_only(std::span(order).first(std::min(std::max(within, least), order.size())), scores);
      return;
    }
  };
}

LogitsProcessor top_h(double h) {
  return [h](const History&, std::span<float> scores) {
    constexpr std::size_t candidates = 100;  // transformers' fixed number
    const auto order = largest_indices(scores, candidates, Ties::lower_index_first);
    std::vector<float> best(order.size());
    std::transform(order.begin(), order.end(), best.begin(), [&](std::size_t i) { return scores[i]; });
    log_softmax(best);
    const auto limit = static_cast<float>(entropy_of(best)) * static_cast<float>(h);
    double sum = 0;
    std::size_t kept = 0;
    for (; kept < best.size() && best[kept] != ruled_out; ++kept) {
      sum -= static_cast<double>(best[kept] * std::exp(best[kept]));
      if (kept > 0 && static_cast<float>(sum) > limit) break;
    }
    keep_only(std::span(order).first(kept), scores);
  };
}

LogitsProcessor min_p(double p, std::int64_t min_tokens_to_keep) {
  return [p, min_tokens_to_keep](const History&, std::span<float> scores) {
    const std::vector<float> probabilities = softmax(scores);
    const float threshold = static_cast<float>(p) * highest(probabilities);
    const auto best =
        largest_indices(probabilities, static_cast<std::size_t>(min_tokens_to_keep), Ties::lower_index_first);
    std::vector<float> survivors(best.size());
    std::transform(best.begin(), best.end(), survivors.begin(), [&](std::size_t i) { return scores[i]; });
    for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = probabilities[i] < threshold ? ruled_out : scores[i];
    for (std::size_t i = 0; i < best.size(); ++i) scores[best[i]] = survivors[i];
  };
}

LogitsProcessor typical_p(double mass, std::int64_t min_tokens_to_keep) {
  return [mass, min_tokens_to_keep](const History&, std::span<float> scores) {
    if (none_is_left(scores)) return;  // no entropy to be near to
    const std::vector<float> log_probabilities = log_probabilities_of(scores);
    const auto entropy = static_cast<float>(entropy_of(log_probabilities));
    std::vector<float> nearness(scores.size());
    std::transform(log_probabilities.begin(), log_probabilities.end(), nearness.begin(),
                   [&](float value) { return -std::abs(-value - entropy); });
    const std::vector<float> probabilities = softmax(scores);

    const auto limit = static_cast<float>(mass);
    for (std::size_t looked_at = 256;; looked_at *= 8) {
      const auto order = largest_indices(nearness, looked_at, Ties::lower_index_first);
      double sum = 0;
      std::size_t last = 0;
      for (; last < order.size(); ++last) {
        sum += static_cast<double>(probabilities[order[last]]);
        if (static_cast<float>(sum) >= limit) break;
      }
      if (last == order.size() && order.size() < scores.size()) continue;
      const float farthest = nearness[order[std::min(last, order.size() - 1)]];
      const auto first = order.begin();
      const auto least = first + std::min(min_tokens_to_keep, std::ssize(order));
      for (std::size_t i = 0; i < scores.size(); ++i) {
        if (nearness[i] < farthest && std::find(first, least, i) == least) scores[i] = ruled_out;
      }
      return;
    }
  };
}

LogitsProcessor epsilon_cutoff(double epsilon, std::int64_t min_tokens_to_keep) {
  return [epsilon, min_tokens_to_keep](const History&, std::span<float> scores) {
    cut_below(static_cast<float>(epsilon), softmax(scores), min_tokens_to_keep, scores);
  };
}

LogitsProcessor eta_cutoff(double epsilon, std::int64_t min_tokens_to_keep) {
  return [limit = static_cast<float>(epsilon), min_tokens_to_keep](const History&, std::span<float> scores) {
    const auto entropy = static_cast<float>(entropy_of(log_probabilities_of(scores)));
    const float eta = std::min(limit, std::sqrt(limit) * std::exp(-entropy));
    cut_below(eta, softmax(scores), min_tokens_to_keep, scores);
  };
}

LogitsProcessor renormalize_logits() {
  return [](const History&, std::span<float> scores) { log_softmax(scores); };
}

}  // namespace mamba2
