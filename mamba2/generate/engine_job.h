#pragma once

#include <algorithm>
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
  int unread = 0;  // tokens that the decoder was asked for and the engine has not seen
  SequenceRandom random;
  std::optional<TokenRequest> next;  // where the decoder can choose its tokens
};

/// A request as the engine works on it: checked, with all that its sequences need.
struct EngineJob {
  /// Throws Error for what makes the request impossible.  decoder: what it is for.
  EngineJob(Request asked, const Decoder& decoder, std::int64_t slots);

  std::int64_t prompt_length() const { return std::ssize(request.prompt_ids); }
  /// Nothing refers to it any more.
  bool over() const {
    return under_way == 0 && std::ranges::all_of(sequences, [](const EngineSequence& s) { return s.ended; });
  }

  RequestId id = 0;
  Request request;
  std::vector<LogitsProcessor> processors;
  Stopping stopping;
  std::int64_t max_length = 0;
  std::vector<EngineSequence> sequences;
  std::int64_t fed = 0;        // prompt tokens that the first sequence's row holds, once the steps under way are done
  bool decoding = false;       // the prompt is fed, and every sequence has a token to feed
  std::int64_t under_way = 0;  // inputs of steps under way that are this job's
};

}  // namespace mamba2
