#include "mamba2/generate/engine_job.h"

#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/generate/complete_config.h"

namespace mamba2 {

namespace {

Request complete(Request asked, std::int64_t vocab_size) {
  asked.config = complete_config(asked.config);
  asked.prompt_ids = complete_prompt(std::move(asked.prompt_ids), "the prompt", asked.config, vocab_size);
  return asked;
}

}  // namespace

EngineJob::EngineJob(Request asked, std::int64_t vocab_size, std::int64_t slots)
    : request(complete(std::move(asked), vocab_size)),
      processors(make_logits_processors(request.config, vocab_size)),
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
                         .random = SequenceRandom(config.seed.value(), request.prompt_ids, request.first_copy + i)});
  }
}

}  // namespace mamba2
