#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "mamba2/generate/generation_config.h"

/// What every way to generate does first with what it is asked for.
namespace mamba2 {

/// Validated, filled from defaults(), with a seed.
GenerationConfig complete_config(const GenerationConfig& asked);

/// The prompt, or bos_token_id where it is empty.  Throws Error that begins with name where there is neither, or an id
/// is outside the vocabulary.
std::vector<std::int32_t> complete_prompt(std::vector<std::int32_t> ids, std::string_view name,
                                          const GenerationConfig& config, std::int64_t vocab_size);

}  // namespace mamba2
