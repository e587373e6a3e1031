#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "mamba2/generate/decoder.h"
#include "mamba2/generate/generation_config.h"
#include "mamba2/generate/stopping.h"
#include "mamba2/generate/streamer.h"
#include "mamba2/generate/text_decoder.h"

namespace mamba2 {

class Mamba2ForCausalLM;

/// What generate() takes beside the GenerationConfig.
struct GenerateOptions {
  BaseStreamer* streamer = nullptr;           ///< borrowed
  MakeTextDecoder make_text_decoder;          ///< for stop_strings; special tokens keep their text
  const std::atomic<bool>* cancel = nullptr;  ///< borrowed; set, generation ends with what there is
  std::int64_t max_rows = 64;                 ///< sequences in the model at a time; the others wait
};

/// One generated sequence.
struct GenerationResult {
  std::size_t prompt = 0;             ///< its index among the prompts
  std::vector<std::int32_t> ids;      ///< prompt and new tokens
  std::vector<std::int32_t> new_ids;  ///< the end token included
  FinishReason finish_reason = FinishReason::length;
  std::optional<double> score;  ///< beam search: sum of log probabilities over new length^length_penalty
};

/// Seconds and fed tokens; sampling and streaming count as decoding.
struct GenerationTimings {
  double prefill_s = 0;
  double decode_s = 0;
  std::int64_t prefill_tokens = 0;
  std::int64_t decode_tokens = 0;
};

struct GenerateOutput {
  std::vector<GenerationResult> results;  ///< num_return_sequences of each prompt, the prompts in order
  GenerationTimings timings;
  std::uint64_t seed = 0;  ///< that was used
};

/// Continues each prompt as transformers' generate does: greedily, by sampling, by beam search or by beam sampling.
/// Each prompt gets what it gets alone, whatever else is in the batch and in whatever order; prompts that are equal get
/// different samples, as num_return_sequences gives.  An empty prompt stands for bos_token_id.  Fields that config does
/// not set take transformers' defaults: fill it from the model's generation_config.json before.  Throws Error for an
/// invalid config, a token id outside the vocabulary, a prompt as long as max_length.
GenerateOutput generate(Mamba2ForCausalLM& model, std::span<const std::vector<std::int32_t>> prompts,
                        const GenerationConfig& config, const GenerateOptions& options = {});

/// The same over anything that decodes.
GenerateOutput generate(Decoder& decoder, std::span<const std::vector<std::int32_t>> prompts,
                        const GenerationConfig& config, const GenerateOptions& options = {});

}  // namespace mamba2
