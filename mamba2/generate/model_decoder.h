#pragma once

#include <optional>
#include <vector>

#include "mamba2/generate/decoder.h"
#include "mamba2/model/modeling_mamba2.h"

namespace mamba2 {

/// A language model as a search uses it: a row is a slot of a cache.
class ModelDecoder : public Decoder {
 public:
  /// model outlives the decoder.
  explicit ModelDecoder(Mamba2ForCausalLM& model) : model_(model) {}

  std::int64_t vocab_size() const override { return model_.config().vocab_size; }
  std::int64_t piece_tokens() const override { return model_.model().piece_tokens(); }
  /// Dynamic RoPE turns the tokens of a call by the length that their sequence reaches with them.
  bool splittable() const override {
    return !model_.config().has_attention() || model_.config().rope.scaling != RopeScaling::dynamic;
  }
  void allocate(std::int64_t rows) override { cache_.emplace(model_.make_cache(rows)); }
  void reset(std::int64_t row) override { cache_->reset(row); }
  void copy(std::int64_t from, std::int64_t to) override { cache_->copy_slot(from, to); }
  std::unique_ptr<RowSnapshot> keep(std::int64_t row) override;
  void restore(const RowSnapshot& kept, std::int64_t row) override;
  void reorder(std::span<const std::int64_t> sources) override { cache_->reorder(sources); }
  std::span<float> feed(std::span<const DecoderInput> inputs) override;
  bool chooses_tokens() const override { return model_.model().backend().chooses_tokens(); }
  std::span<const std::int32_t> take_tokens() override;

 private:
  Mamba2ForCausalLM& model_;
  std::optional<Mamba2Cache> cache_;
  // Kept from feed to feed for their memory.
  std::vector<SequenceInput> sequences_;
  ForwardOutput output_;
  std::vector<std::int32_t> tokens_;
  HostTensor rounded_;  // f32, where the backend computes in f64
};

}  // namespace mamba2
