#include "mamba2/generate/model_decoder.h"

#include <utility>

#include "mamba2/generate/generate.h"

namespace mamba2 {

std::span<float> ModelDecoder::feed(std::span<const DecoderInput> inputs) {
  std::vector<SequenceInput> sequences;
  sequences.reserve(inputs.size());
  for (const DecoderInput& input : inputs) {
    sequences.push_back({.input_ids = input.ids, .slot = input.row, .logits_to_keep = input.wants_logits ? 1 : 0});
  }
  HostTensor logits = model_.forward(sequences, *cache_).logits;
  if (logits.view().empty()) return {};
  if (logits.view().dtype != DType::f32) {
    HostTensor rounded(DType::f32, logits.view().shape);
    convert(logits, rounded);
    logits = std::move(rounded);
  }
  logits_ = std::move(logits);
  return logits_.span<float>();
}

GenerateOutput generate(Mamba2ForCausalLM& model, std::span<const std::vector<std::int32_t>> prompts,
                        const GenerationConfig& config, const GenerateOptions& options) {
  ModelDecoder decoder(model);
  return generate(decoder, prompts, config, options);
}

}  // namespace mamba2
