#include "mamba2/generate/engine_job.h"

#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/generate/complete_config.h"
#include "mamba2/generate/device_choice.h"

namespace mamba2 {

namespace {

Request complete(Request asked, std::int64_t vocab_size) {
  asked.config = complete_config(asked.config);
  asked.prompt_ids = complete_prompt(std::move(asked.prompt_ids), "the prompt", asked.config, vocab_size);
  return asked;
}

}  // namespace

EngineJob::EngineJob(Request asked, const Decoder& decoder, std::int64_t slots)
    : request(complete(std::move(asked), decoder.vocab_size())),
      processors(make_logits_processors(request.config, decoder.vocab_size())),
      stopping(request.config, request.make_text_decoder, request.cancel),
      max_length(max_length_for(request.config, std::ssize(request.prompt_ids))) {
  const GenerationConfig& config = request.config;
  require(*config.num_beams == 1, "'num_beams' is {}, expected 1: an engine does not search by beams",
          *config.num_beams);
  const std::int64_t count = *config.num_return_sequences;
  require(count <= slots, "'num_return_sequences' is {}, but the engine has {} slots", count, slots);
  for (std::int64_t i = 0; i < count; ++i) {
    sequences.push_back({.number = i,
                         .row = EngineSequence::no_row,
                         .ids = request.prompt_ids,
                         .ended = false,
                         .unread = 0,
                         .random = SequenceRandom(config.seed.value(), request.prompt_ids, request.first_copy + i),
                         .next = {}});
    if (!decoder.chooses_tokens()) continue;
    EngineSequence& sequence = sequences.back();
    if (const auto rule = token_rule(config, processors.size(), sequence.random))
      sequence.next = TokenRequest{.rule = *rule, .step = 0, .history = {}};
  }
}

}  // namespace mamba2
