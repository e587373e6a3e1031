#pragma once

#include "mamba2/generate/generation_config.h"

namespace mamba2 {

/// The one table of GenerationConfig's fields: calls visit(name, member pointer) for each, in the order they are saved.
template <class Visit>
void for_each_generation_field(Visit&& visit) {
  using G = GenerationConfig;
  visit("max_length", &G::max_length);
  visit("max_new_tokens", &G::max_new_tokens);
  visit("min_length", &G::min_length);
  visit("min_new_tokens", &G::min_new_tokens);
  visit("max_time", &G::max_time);
  visit("stop_strings", &G::stop_strings);
  visit("do_sample", &G::do_sample);
  visit("num_beams", &G::num_beams);
  visit("num_return_sequences", &G::num_return_sequences);
  visit("early_stopping", &G::early_stopping);
  visit("length_penalty", &G::length_penalty);
  visit("seed", &G::seed);
  visit("temperature", &G::temperature);
  visit("top_k", &G::top_k);
  visit("top_p", &G::top_p);
  visit("top_h", &G::top_h);
  visit("min_p", &G::min_p);
  visit("typical_p", &G::typical_p);
  visit("epsilon_cutoff", &G::epsilon_cutoff);
  visit("eta_cutoff", &G::eta_cutoff);
  visit("repetition_penalty", &G::repetition_penalty);
  visit("no_repeat_ngram_size", &G::no_repeat_ngram_size);
  visit("bad_words_ids", &G::bad_words_ids);
  visit("sequence_bias", &G::sequence_bias);
  visit("forced_bos_token_id", &G::forced_bos_token_id);
  visit("forced_eos_token_id", &G::forced_eos_token_id);
  visit("exponential_decay_length_penalty", &G::exponential_decay_length_penalty);
  visit("suppress_tokens", &G::suppress_tokens);
  visit("begin_suppress_tokens", &G::begin_suppress_tokens);
  visit("remove_invalid_values", &G::remove_invalid_values);
  visit("renormalize_logits", &G::renormalize_logits);
  visit("bos_token_id", &G::bos_token_id);
  visit("pad_token_id", &G::pad_token_id);
  visit("eos_token_id", &G::eos_token_id);
}

}  // namespace mamba2
