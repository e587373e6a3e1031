#pragma once

#include <cstdint>
#include <vector>

#include "mamba2/generate/logits_processor.h"

/// Processors that force or rule out tokens by their position.  Ids outside the vocabulary have no effect, save for the
/// forced ones, which are within.
namespace mamba2 {

/// No end before so many tokens, prompt included.
LogitsProcessor min_length(std::int64_t length, std::vector<std::int32_t> eos);
/// No end before so many new tokens.
LogitsProcessor min_new_tokens(std::int64_t count, std::vector<std::int32_t> eos);
/// The second token of a sequence is this one.
LogitsProcessor forced_bos(std::int32_t id);
/// The last token that max_length allows is one of these.
LogitsProcessor forced_eos(std::vector<std::int32_t> ids);
/// NaN becomes 0, infinities the largest and smallest finite float.
LogitsProcessor remove_invalid_values();
/// Never these.
LogitsProcessor suppress_tokens(std::vector<std::int32_t> ids);
/// Not these as the first new token; after a prompt of one token with a forced second one, not these as the second.
LogitsProcessor begin_suppress_tokens(std::vector<std::int32_t> ids, bool second_is_forced);

}  // namespace mamba2
