#include "mamba2/generate/token_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "mamba2/generate/softmax.h"

namespace mamba2 {

namespace {

void rule_out(std::span<const std::int32_t> ids, std::span<float> scores) {
  for (const std::int32_t id : ids) {
    if (id >= 0 && static_cast<std::size_t>(id) < scores.size()) scores[static_cast<std::size_t>(id)] = ruled_out;
  }
}

void force(std::span<const std::int32_t> ids, std::span<float> scores) {
  std::fill(scores.begin(), scores.end(), ruled_out);
  for (const std::int32_t id : ids) scores[static_cast<std::size_t>(id)] = 0;
}

}  // namespace

LogitsProcessor min_length(std::int64_t length, std::vector<std::int32_t> eos) {
  return [length, eos = std::move(eos)](const History& history, std::span<float> scores) {
    if (std::ssize(history.ids) < length) rule_out(eos, scores);
  };
}

LogitsProcessor min_new_tokens(std::int64_t count, std::vector<std::int32_t> eos) {
  return [count, eos = std::move(eos)](const History& history, std::span<float> scores) {
    if (std::ssize(history.ids) - history.prompt_length < count) rule_out(eos, scores);
  };
}

LogitsProcessor forced_bos(std::int32_t id) {
  return [id](const History& history, std::span<float> scores) {
    if (history.ids.size() == 1) force({&id, 1}, scores);
  };
}

LogitsProcessor forced_eos(std::vector<std::int32_t> ids) {
  return [ids = std::move(ids)](const History& history, std::span<float> scores) {
    if (std::ssize(history.ids) == history.max_length - 1) force(ids, scores);
  };
}

LogitsProcessor remove_invalid_values() {
  return [](const History&, std::span<float> scores) {
    constexpr float largest = std::numeric_limits<float>::max();
    for (float& score : scores) score = std::isnan(score) ? 0.0F : std::clamp(score, -largest, largest);
  };
}

LogitsProcessor suppress_tokens(std::vector<std::int32_t> ids) {
  return [ids = std::move(ids)](const History&, std::span<float> scores) { rule_out(ids, scores); };
}

LogitsProcessor begin_suppress_tokens(std::vector<std::int32_t> ids, bool second_is_forced) {
  return [ids = std::move(ids), second_is_forced](const History& history, std::span<float> scores) {
    const bool shifted = second_is_forced && history.prompt_length <= 1;
    const std::int64_t begin = history.prompt_length + (shifted ? 1 : 0);
    if (std::ssize(history.ids) == begin) rule_out(ids, scores);
  };
}

}  // namespace mamba2
