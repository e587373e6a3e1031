#include "mamba2/generate/device_choice.h"

#include <limits>

#include "mamba2/base/error.h"

namespace mamba2 {

std::optional<TokenRule> token_rule(const GenerationConfig& config, std::size_t processors,
                                    const SequenceRandom& random) {
  TokenRule rule;
  std::size_t expressed = 0;
  if (*config.repetition_penalty != 1) {
    rule.repetition_penalty = static_cast<float>(*config.repetition_penalty);
    ++expressed;
  }
  if (*config.do_sample) {
    rule.samples = 1;
    rule.seed = random.seed();
    rule.stream = random.stream();
    if (*config.temperature != 1) {
      rule.temperature = static_cast<float>(*config.temperature);
      ++expressed;
    }
    if (*config.top_k > 0) {
      if (*config.top_k > std::numeric_limits<std::int32_t>::max()) return std::nullopt;
      rule.top_k = static_cast<std::int32_t>(*config.top_k);
      ++expressed;
    }
    if (*config.top_p < 1) {
      rule.removed_mass = static_cast<float>(1 - *config.top_p);
      ++expressed;
    }
    if (config.min_p) {
      rule.min_p = static_cast<float>(*config.min_p);
      ++expressed;
    }
  }
  if (expressed != processors) return std::nullopt;
  return rule;
}

std::int32_t checked_token(std::int32_t chosen) {
  switch (chosen) {
    case score_is_nan: fail("a score of the next token is NaN; remove_invalid_values would replace it");
    case score_is_infinite: fail("a score of the next token is infinite; remove_invalid_values would replace it");
    case all_ruled_out: fail("the generation config rules out every next token");
    default: return chosen;
  }
}

}  // namespace mamba2
