#include "mamba2/generate/generation_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "mamba2/base/error.h"
#include "mamba2/base/log.h"
#include "mamba2/generate/generation_fields.h"
#include "mamba2/model/config.h"

namespace mamba2 {

namespace {

constexpr std::int64_t default_new_tokens = 20;  // transformers' default max_length, which it counts from the prompt
constexpr std::int64_t most_sequences = 65536;   // of one prompt; a bound on memory that no use comes near

std::optional<std::int32_t> token_id(const std::optional<std::int64_t>& id, const char* field) {
  if (!id || *id < 0) return std::nullopt;
  require(*id <= std::numeric_limits<std::int32_t>::max(), "config.json: '{}' is {}, which is no token id", field, *id);
  return static_cast<std::int32_t>(*id);
}

/// Checks values one by one; an unset one is in range.
class Ranges {
 public:
  explicit Ranges(std::string_view source) : prefix_(source.empty() ? std::string() : std::string(source) + ": ") {}

  void at_least(const char* field, const std::optional<std::int64_t>& value, std::int64_t lowest) const {
    if (value) check(*value >= lowest, field, *value, fmt::format("an integer >= {}", lowest));
  }
  void between(const char* field, const std::optional<std::int64_t>& value, std::int64_t lowest,
               std::int64_t highest) const {
    if (value) {
      check(*value >= lowest && *value <= highest, field, *value,
            fmt::format("an integer from {} to {}", lowest, highest));
    }
  }
  void positive(const char* field, const std::optional<double>& value) const {
    if (value) check(*value > 0 && std::isfinite(*value), field, *value, "a number > 0");
  }
  void finite(const char* field, const std::optional<double>& value) const {
    if (value) check(std::isfinite(*value), field, *value, "a finite number");
  }
  void within_unit(const char* field, const std::optional<double>& value) const {
    if (value) check(*value >= 0 && *value <= 1, field, *value, "a number from 0 to 1");
  }
  void share(const char* field, const std::optional<double>& value) const {
    if (value) check(*value > 0 && *value <= 1, field, *value, "a number > 0 and <= 1");
  }
  void cutoff(const char* field, const std::optional<double>& value) const {
    if (value) check(*value >= 0 && *value < 1, field, *value, "a number >= 0 and < 1");
  }
  void id(const char* field, const std::optional<std::int32_t>& value) const {
    if (value) check(*value >= 0, field, *value, "a token id >= 0");
  }
  void ids(const char* field, const std::vector<std::int32_t>& values) const {
    for (const std::int32_t value : values) id(field, value);
  }
  template <class T>
  void check(bool good, const char* field, const T& found, std::string_view expected) const {
    require(good, "{}'{}' is {}, expected {}", prefix_, field, found, expected);
  }
  void fail_because(std::string_view reason) const { fail("{}{}", prefix_, reason); }

 private:
  std::string prefix_;
};

void check_lengths_and_strategy(const GenerationConfig& c, const Ranges& range) {
  range.at_least("max_length", c.max_length, 1);
  range.at_least("max_new_tokens", c.max_new_tokens, 1);
  range.at_least("min_length", c.min_length, 0);
  range.at_least("min_new_tokens", c.min_new_tokens, 0);
  range.positive("max_time", c.max_time);
  if (c.stop_strings) {
    for (const std::string& stop : *c.stop_strings) range.check(!stop.empty(), "stop_strings", "''", "text");
  }
  range.between("num_beams", c.num_beams, 1, most_sequences);
  range.between("num_return_sequences", c.num_return_sequences, 1, most_sequences);
  range.finite("length_penalty", c.length_penalty);

  const std::int64_t beams = c.num_beams.value_or(1);
  const std::int64_t returned = c.num_return_sequences.value_or(1);
  if (beams == 1 && returned > 1 && !c.do_sample.value_or(false)) {
    range.fail_because(fmt::format(
        "'num_return_sequences' is {}, but greedy search has one result: set do_sample or num_beams", returned));
  }
  if (beams > 1 && returned > beams) {
    range.fail_because(fmt::format("'num_return_sequences' is {}, expected at most num_beams = {}", returned, beams));
  }
}

void check_scores(const GenerationConfig& c, const Ranges& range) {
  if (c.do_sample.value_or(false) && c.temperature && *c.temperature == 0) {
    range.fail_because("'temperature' is 0, expected a number > 0; for greedy search set do_sample to false");
  }
  if (c.temperature)
    range.check(*c.temperature >= 0 && std::isfinite(*c.temperature), "temperature", *c.temperature, "a number > 0");
  range.at_least("top_k", c.top_k, 0);
  range.within_unit("top_p", c.top_p);
  range.share("top_h", c.top_h);
  range.within_unit("min_p", c.min_p);
  range.share("typical_p", c.typical_p);
  range.cutoff("epsilon_cutoff", c.epsilon_cutoff);
  range.cutoff("eta_cutoff", c.eta_cutoff);
  range.positive("repetition_penalty", c.repetition_penalty);
  range.at_least("no_repeat_ngram_size", c.no_repeat_ngram_size, 0);
  if (c.bad_words_ids) {
    for (const auto& word : *c.bad_words_ids) {
      range.check(!word.empty(), "bad_words_ids", "holding an empty list", "lists of token ids");
      range.ids("bad_words_ids", word);
    }
  }
  if (c.sequence_bias) {
    for (const SequenceBias& entry : *c.sequence_bias) {
      range.check(!entry.ids.empty(), "sequence_bias", "holding an empty list", "lists of token ids");
      range.check(!std::isnan(entry.bias), "sequence_bias", entry.bias, "numbers");
      range.ids("sequence_bias", entry.ids);
    }
  }
  if (c.exponential_decay_length_penalty) {
    const auto [start, factor] = *c.exponential_decay_length_penalty;
    range.check(start >= 0, "exponential_decay_length_penalty", start, "a start >= 0");
    range.check(factor > 0 && std::isfinite(factor), "exponential_decay_length_penalty", factor, "a factor > 0");
  }
}

void check_tokens(const GenerationConfig& c, const Ranges& range) {
  range.id("forced_bos_token_id", c.forced_bos_token_id);
  if (c.forced_eos_token_id) range.ids("forced_eos_token_id", *c.forced_eos_token_id);

  const auto suppressed = [&](std::int32_t id) {
    return c.suppress_tokens && std::count(c.suppress_tokens->begin(), c.suppress_tokens->end(), id) > 0;
  };
  if (c.forced_bos_token_id && suppressed(*c.forced_bos_token_id)) {
    range.fail_because("'forced_bos_token_id' is among 'suppress_tokens': no token would be left");
  }
  if (c.forced_eos_token_id && !c.forced_eos_token_id->empty() &&
      std::all_of(c.forced_eos_token_id->begin(), c.forced_eos_token_id->end(), suppressed)) {
    range.fail_because("every 'forced_eos_token_id' is among 'suppress_tokens': no token would be left");
  }
}

}  // namespace

GenerationConfig GenerationConfig::from_model_config(const Mamba2Config& config) {
  GenerationConfig tokens;
  tokens.bos_token_id = token_id(config.bos_token_id, "bos_token_id");
  tokens.pad_token_id = token_id(config.pad_token_id, "pad_token_id");
  if (const auto eos = token_id(config.eos_token_id, "eos_token_id")) tokens.eos_token_id = {{*eos}};
  return tokens;
}

const GenerationConfig& GenerationConfig::defaults() {
  static const GenerationConfig values = [] {
    GenerationConfig c;
    c.min_length = 0;
    c.do_sample = false;
    c.num_beams = 1;
    c.num_return_sequences = 1;
    c.early_stopping = EarlyStopping::no;
    c.length_penalty = 1.0;
    c.temperature = 1.0;
    c.top_k = 50;
    c.top_p = 1.0;
    c.typical_p = 1.0;
    c.epsilon_cutoff = 0.0;
    c.eta_cutoff = 0.0;
    c.repetition_penalty = 1.0;
    c.no_repeat_ngram_size = 0;
    c.remove_invalid_values = false;
    c.renormalize_logits = false;
    return c;
  }();
  return values;
}

void GenerationConfig::fill_from(const GenerationConfig& other) {
  for_each_generation_field([&](const char*, auto member) {
    if (!(this->*member)) this->*member = other.*member;
  });
}

void GenerationConfig::validate(std::string_view source) const {
  const Ranges range(source);
  check_lengths_and_strategy(*this, range);
  check_scores(*this, range);
  check_tokens(*this, range);
}

std::int64_t max_length_for(const GenerationConfig& config, std::int64_t prompt_length) {
  constexpr std::int64_t limit = std::numeric_limits<std::int64_t>::max();
  if (config.max_new_tokens) return prompt_length + std::min(*config.max_new_tokens, limit - prompt_length);
  if (!config.max_length) return prompt_length + default_new_tokens;
  require(prompt_length < *config.max_length,
          "the prompt has {} tokens, but max_length is {}: increase it or set max_new_tokens", prompt_length,
          *config.max_length);
  return *config.max_length;
}

}  // namespace mamba2
