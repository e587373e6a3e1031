#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "mamba2/generate/generation_config.h"

namespace mamba2 {

/// A sequence whose next token is looked for.
struct History {
  std::span<const std::int32_t> ids;  ///< prompt and what was generated
  std::int64_t prompt_length = 0;
  std::int64_t max_length = 0;  ///< where it ends at the latest, prompt included
};

/// Changes the scores (vocab_size) of a sequence's next token in place; -inf rules a token out.  Pure: the same scores
/// and history give the same scores.  Arithmetic is float32, as transformers'.
using LogitsProcessor = std::function<void(const History& history, std::span<float> scores)>;

/// The processors that config asks for, in transformers' order: those for every strategy, where do_sample is set those
/// that cut the distribution, renormalize_logits last.  config is validated and filled from defaults().  Throws Error
/// for a token id outside the vocabulary where one must be within.
std::vector<LogitsProcessor> make_logits_processors(const GenerationConfig& config, std::int64_t vocab_size);

}  // namespace mamba2
