#pragma once

#include <cstdint>
#include <vector>

#include "mamba2/generate/logits_processor.h"

/// Processors that weigh tokens by what was said before.
namespace mamba2 {

/// Divides positive scores of tokens in the history by penalty, multiplies negative ones.  Keskar et al. 2019, section
/// 4.1.
LogitsProcessor repetition_penalty(double penalty);

/// Rules out tokens that would complete an n-gram which the history holds already.
LogitsProcessor no_repeat_ngram(std::int64_t size);

/// Adds each bias to the last token of its sequence where the history ends with the tokens before; of equal sequences
/// the last one's bias counts.  Token ids are within the vocabulary.
LogitsProcessor sequence_bias(std::vector<SequenceBias> biases);

/// See ExponentialDecay; an end token that is ruled out stays so.
LogitsProcessor exponential_decay_length_penalty(ExponentialDecay decay, std::vector<std::int32_t> eos);

}  // namespace mamba2
