#include "mamba2/generate/model_decoder.h"

#include <utility>

#include "mamba2/generate/generate.h"

namespace mamba2 {

namespace {

class CachedRow : public RowSnapshot {
 public:
  explicit CachedRow(Mamba2Cache one_slot) : cache(std::move(one_slot)) {}
  std::size_t bytes() const override { return cache.bytes_per_slot(); }

  Mamba2Cache cache;
};

}  // namespace

std::unique_ptr<RowSnapshot> ModelDecoder::keep(std::int64_t row) {
  Mamba2Cache one_slot = model_.make_cache(1);
  one_slot.copy_slot(*cache_, row, 0);
  return std::make_unique<CachedRow>(std::move(one_slot));
}

void ModelDecoder::restore(const RowSnapshot& kept, std::int64_t row) {
  cache_->copy_slot(static_cast<const CachedRow&>(kept).cache, 0, row);
}

std::span<float> ModelDecoder::feed(std::span<const DecoderInput> inputs) {
  sequences_.clear();
  for (const DecoderInput& input : inputs)
    sequences_.push_back(
        {.input_ids = input.ids, .slot = input.row, .logits_to_keep = input.wants_logits ? 1 : 0, .next = input.next});
  model_.start(sequences_, *cache_, output_);
  const Tensor& logits = output_.logits.view();
  if (logits.dtype == DType::f32) return output_.logits.span<float>();
  rounded_ = HostTensor(DType::f32, logits.shape);
  convert(logits, rounded_);
  return rounded_.span<float>();
}

std::span<const std::int32_t> ModelDecoder::take_tokens() {
  model_.finish(tokens_);
  return tokens_;
}

GenerateOutput generate(Mamba2ForCausalLM& model, std::span<const std::vector<std::int32_t>> prompts,
                        const GenerationConfig& config, const GenerateOptions& options) {
  ModelDecoder decoder(model);
  return generate(decoder, prompts, config, options);
}

}  // namespace mamba2
