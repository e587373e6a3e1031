#include "mamba2/generate/logits_processor.h"

#include <algorithm>

#include "mamba2/base/error.h"
#include "mamba2/generate/penalties.h"
#include "mamba2/generate/token_rules.h"
#include "mamba2/generate/warpers.h"

namespace mamba2 {

namespace {

using Ids = std::vector<std::int32_t>;
using Processors = std::vector<LogitsProcessor>;

void require_in_vocabulary(const char* field, const Ids& ids, std::int64_t vocab_size) {
  for (const std::int32_t id : ids) {
    require(id >= 0 && id < vocab_size, "'{}' names token {}, but the vocabulary has {} tokens", field, id, vocab_size);
  }
}

/// Forbidding a sequence is a bias of -inf; ending the text can't be forbidden this way.
std::vector<SequenceBias> biases_of_bad_words(const std::vector<Ids>& bad_words, const Ids& eos) {
  std::vector<SequenceBias> biases;
  for (const Ids& word : bad_words) {
    const bool ends_text = word.size() == 1 && std::count(eos.begin(), eos.end(), word[0]) > 0;
    if (!ends_text) biases.push_back({word, -std::numeric_limits<double>::infinity()});
  }
  return biases;
}

void add_penalties(const GenerationConfig& c, const Ids& eos, std::int64_t vocab_size, Processors& list) {
  if (c.sequence_bias) {
    for (const SequenceBias& entry : *c.sequence_bias) require_in_vocabulary("sequence_bias", entry.ids, vocab_size);
    list.push_back(sequence_bias(*c.sequence_bias));
  }
  if (*c.repetition_penalty != 1) list.push_back(repetition_penalty(*c.repetition_penalty));
  if (*c.no_repeat_ngram_size > 0) list.push_back(no_repeat_ngram(*c.no_repeat_ngram_size));
  if (c.bad_words_ids) {
    for (const Ids& word : *c.bad_words_ids) require_in_vocabulary("bad_words_ids", word, vocab_size);
    list.push_back(sequence_bias(biases_of_bad_words(*c.bad_words_ids, eos)));
  }
}

void add_token_rules(const GenerationConfig& c, const Ids& eos, std::int64_t vocab_size, Processors& list) {
  if (*c.min_length > 0 && !eos.empty()) list.push_back(min_length(*c.min_length, eos));
  if (c.min_new_tokens.value_or(0) > 0 && !eos.empty()) list.push_back(min_new_tokens(*c.min_new_tokens, eos));
  if (c.forced_bos_token_id) {
    require_in_vocabulary("forced_bos_token_id", {*c.forced_bos_token_id}, vocab_size);
    list.push_back(forced_bos(*c.forced_bos_token_id));
  }
  if (c.forced_eos_token_id) {
    require_in_vocabulary("forced_eos_token_id", *c.forced_eos_token_id, vocab_size);
    list.push_back(forced_eos(*c.forced_eos_token_id));
  }
  if (*c.remove_invalid_values) list.push_back(remove_invalid_values());
  if (c.exponential_decay_length_penalty && !eos.empty()) {
    list.push_back(exponential_decay_length_penalty(*c.exponential_decay_length_penalty, eos));
  }
  if (c.suppress_tokens) list.push_back(suppress_tokens(*c.suppress_tokens));
  if (c.begin_suppress_tokens) {
    list.push_back(begin_suppress_tokens(*c.begin_suppress_tokens, c.forced_bos_token_id.has_value()));
  }
}

void add_warpers(const GenerationConfig& c, const Ids& eos, Processors& list) {
  // Beams need a token that goes on beside every one that ends the text.
  const std::int64_t keep = *c.num_beams > 1 ? std::max<std::int64_t>(1, static_cast<std::int64_t>(eos.size())) + 1 : 1;
  if (*c.temperature != 1) list.push_back(temperature(*c.temperature));
  if (c.top_h) list.push_back(top_h(*c.top_h));
  if (*c.top_k > 0) list.push_back(top_k(std::max(*c.top_k, keep)));
  if (*c.top_p < 1) list.push_back(top_p(*c.top_p, keep));
  if (c.min_p) list.push_back(min_p(*c.min_p, keep));
  if (*c.typical_p < 1) list.push_back(typical_p(*c.typical_p, keep));
  if (*c.epsilon_cutoff > 0) list.push_back(epsilon_cutoff(*c.epsilon_cutoff, keep));
  if (*c.eta_cutoff > 0) list.push_back(eta_cutoff(*c.eta_cutoff, keep));
}

}  // namespace

std::vector<LogitsProcessor> make_logits_processors(const GenerationConfig& config, std::int64_t vocab_size) {
  const Ids eos = config.eos_token_id.value_or(Ids());
  Processors list;
  add_penalties(config, eos, vocab_size, list);
  add_token_rules(config, eos, vocab_size, list);
  if (*config.do_sample) add_warpers(config, eos, list);
  if (*config.renormalize_logits) list.push_back(renormalize_logits());
  return list;
}

}  // namespace mamba2
