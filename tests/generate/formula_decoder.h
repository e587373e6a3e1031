#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mamba2/generate/decoder.h"
#include "mamba2/generate/text_decoder.h"

namespace mamba2 {

/// A model that is a formula: the logits of token v after tokens a, b, c are a hash of the four, evenly spread over
/// (-spread / 2, spread / 2).  make_searches.py has the same for transformers.
class FormulaDecoder : public Decoder {
 public:
  FormulaDecoder(std::int64_t vocab_size, double spread) : vocab_size_(vocab_size), spread_(spread) {}

  std::int64_t vocab_size() const override { return vocab_size_; }
  void allocate(std::int64_t rows) override { rows_.assign(static_cast<std::size_t>(rows), {}); }
  void reset(std::int64_t row) override { rows_.at(static_cast<std::size_t>(row)).clear(); }
  void copy(std::int64_t from, std::int64_t to) override {
    rows_.at(static_cast<std::size_t>(to)) = rows_.at(static_cast<std::size_t>(from));
  }
  std::unique_ptr<RowSnapshot> keep(std::int64_t row) override;
  void restore(const RowSnapshot& kept, std::int64_t row) override;
  void reorder(std::span<const std::int64_t> sources) override;
  std::span<float> feed(std::span<const DecoderInput> inputs) override;

  /// The most sequences ever fed together.
  std::size_t largest_batch() const { return largest_batch_; }
  std::size_t feeds() const { return feeds_; }

 private:
  void append_logits(const std::vector<std::int32_t>& ids);

  std::int64_t vocab_size_;
  double spread_;
  std::vector<std::vector<std::int32_t>> rows_;
  std::vector<float> logits_;
  std::size_t largest_batch_ = 0;
  std::size_t feeds_ = 0;
};

/// Token i reads as texts[i].
MakeTextDecoder text_decoder_of(std::vector<std::string> texts);

}  // namespace mamba2
