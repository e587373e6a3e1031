#include "mamba2/generate/penalties.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "mamba2/generate/softmax.h"

namespace mamba2 {

namespace {

/// True where ids ends with these tokens.
bool ends_with(std::span<const std::int32_t> ids, std::span<const std::int32_t> tail) {
  return ids.size() >= tail.size() && std::equal(tail.begin(), tail.end(), ids.end() - std::ssize(tail));
}

/// Equal sequences as one, at the first one's place and with the last one's bias.
std::vector<SequenceBias> without_repeats(std::vector<SequenceBias> biases) {
  std::vector<SequenceBias> unique;
  for (SequenceBias& entry : biases) {
    const auto same = std::find_if(unique.begin(), unique.end(), [&](const auto& u) { return u.ids == entry.ids; });
    if (same == unique.end()) {
      unique.push_back(std::move(entry));
    } else {
      same->bias = entry.bias;
    }
  }
  return unique;
}

}  // namespace

LogitsProcessor repetition_penalty(double penalty) {
  return [factor = static_cast<float>(penalty)](const History& history, std::span<float> scores) {
    std::vector<bool> done(scores.size());
    for (const std::int32_t id : history.ids) {
      const auto token = static_cast<std::size_t>(id);
      if (done[token]) continue;
      done[token] = true;
      float& score = scores[token];
      score = score < 0 ? score * factor : score / factor;
    }
  };
}

LogitsProcessor no_repeat_ngram(std::int64_t size) {
  return [size](const History& history, std::span<float> scores) {
    const auto length = static_cast<std::size_t>(size);
    const auto ids = history.ids;
    if (ids.size() < length) return;
    const auto prefix = ids.last(length - 1);
    for (std::size_t start = 0; start + length <= ids.size(); ++start) {
      if (std::equal(prefix.begin(), prefix.end(), ids.begin() + static_cast<std::ptrdiff_t>(start))) {
        scores[static_cast<std::size_t>(ids[start + length - 1])] = ruled_out;
      }
    }
  };
}

LogitsProcessor sequence_bias(std::vector<SequenceBias> biases) {
  biases = without_repeats(std::move(biases));
  // Sums of biases come before the score is added, those of single tokens first.
  std::stable_partition(biases.begin(), biases.end(), [](const SequenceBias& entry) { return entry.ids.size() == 1; });
  return [biases = std::move(biases)](const History& history, std::span<float> scores) {
    std::vector<std::pair<std::size_t, float>> sums;
    for (const SequenceBias& entry : biases) {
      const auto prefix = std::span(entry.ids).first(entry.ids.size() - 1);
      // A sequence longer than the history never applies, not even one token longer, where its prefix would match.
      if (!prefix.empty() && (entry.ids.size() > history.ids.size() || !ends_with(history.ids, prefix))) continue;
      const auto token = static_cast<std::size_t>(entry.ids.back());
      const auto sum = std::find_if(sums.begin(), sums.end(), [&](const auto& s) { return s.first == token; });
      if (sum == sums.end()) {
        sums.emplace_back(token, static_cast<float>(entry.bias));
      } else {
        sum->second += static_cast<float>(entry.bias);
      }
    }
    for (const auto& [token, sum] : sums) scores[token] += sum;
  };
}

LogitsProcessor exponential_decay_length_penalty(ExponentialDecay decay, std::vector<std::int32_t> eos) {
  return [decay, eos = std::move(eos)](const History& history, std::span<float> scores) {
    const std::int64_t steps = std::ssize(history.ids) - history.prompt_length - decay.start;
    if (steps <= 0) return;
    const auto growth = static_cast<float>(std::pow(decay.factor, static_cast<double>(steps)) - 1);
    for (const std::int32_t id : eos) {
      const auto token = static_cast<std::size_t>(id);
      if (id < 0 || token >= scores.size() || scores[token] == ruled_out) continue;
      scores[token] += std::abs(scores[token]) * growth;
    }
  };
}

}  // namespace mamba2
