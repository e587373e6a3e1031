#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "mamba2/generate/decoder.h"
#include "mamba2/generate/logits_processor.h"
#include "mamba2/generate/request.h"
#include "mamba2/generate/sampler.h"
#include "mamba2/ops/token_rule.h"

namespace mamba2 {

/// A text that grows.
struct EngineSequence {
  static constexpr std::int64_t no_row = -1;
  std::int64_t number = 0;        // among those of its request
  std::int64_t row = no_row;      // of the decoder, once it is admitted
  std::vector<std::int32_t> ids;  // prompt and new tokens
  bool ended = false;
  SequenceRandom random;
  std::optional<TokenRequest> next;  // where the decoder can choose its tokens
};

/// A request as the engine works on it: checked, with all that its sequences need.
struct EngineJob {
  /// Throws Error for what makes the request impossible.  decoder: what it is for.
  EngineJob(Request asked, const Decoder& decoder, std::int64_t slots);

  std::int64_t prompt_length() const { return std::ssize(request.prompt_ids); }

  RequestId id = 0;
  Request request;
  std::vector<LogitsProcessor> processors;
  Stopping stopping;
  std::int64_t max_length = 0;
  std::vector<EngineSequence> sequences;  // those that have ended leave after the step
  std::int64_t fed = 0;                   // prompt tokens that the first sequence's row holds
  bool decoding = false;                  // the prompt is fed, and every sequence has a token to feed
};

}  // namespace mamba2
