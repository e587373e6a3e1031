#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "mamba2/generate/generation_config.h"
#include "mamba2/generate/sampler.h"
#include "mamba2/ops/token_rule.h"

namespace mamba2 {

/// The rule by which a backend chooses a sequence's tokens, the same ones as its processors and sampler choose; nothing
/// where more is asked for than a rule can say.  processors: how many config makes.
std::optional<TokenRule> token_rule(const GenerationConfig& config, std::size_t processors,
                                    const SequenceRandom& random);

/// The token; throws Error for a refusal.
std::int32_t checked_token(std::int32_t chosen);

}  // namespace mamba2
