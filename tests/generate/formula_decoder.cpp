#include "tests/generate/formula_decoder.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "tests/generate/formula_scores.h"

namespace mamba2 {

namespace {

class TableTextDecoder : public TextDecoder {
 public:
  explicit TableTextDecoder(const std::vector<std::string>& texts) : texts_(texts) {}
  std::string put(std::int32_t id) override { return texts_.at(static_cast<std::size_t>(id)); }
  std::string finish() override { return ""; }

 private:
  const std::vector<std::string>& texts_;
};

struct KeptTokens : RowSnapshot {
  explicit KeptTokens(std::vector<std::int32_t> tokens) : ids(std::move(tokens)) {}
  std::size_t bytes() const override { return ids.size() * sizeof(std::int32_t); }
  const std::vector<std::int32_t> ids;
};

}  // namespace

std::unique_ptr<RowSnapshot> FormulaDecoder::keep(std::int64_t row) {
  return std::make_unique<KeptTokens>(rows_.at(static_cast<std::size_t>(row)));
}

void FormulaDecoder::restore(const RowSnapshot& kept, std::int64_t row) {
  rows_.at(static_cast<std::size_t>(row)) = static_cast<const KeptTokens&>(kept).ids;
}

void FormulaDecoder::reorder(std::span<const std::int64_t> sources) {
  const std::vector<std::vector<std::int32_t>> before = rows_;
  for (std::size_t i = 0; i < sources.size(); ++i) rows_.at(i) = before.at(static_cast<std::size_t>(sources[i]));
}

std::span<float> FormulaDecoder::feed(std::span<const DecoderInput> inputs) {
  logits_.clear();
  ++feeds_;
  largest_batch_ = std::max(largest_batch_, inputs.size());
  for (const DecoderInput& input : inputs) {
    std::vector<std::int32_t>& row = rows_.at(static_cast<std::size_t>(input.row));
    row.insert(row.end(), input.ids.begin(), input.ids.end());
    if (input.wants_logits) append_logits(row);
  }
  return logits_;
}

void FormulaDecoder::append_logits(const std::vector<std::int32_t>& ids) {
  std::uint32_t last[3] = {0, 0, 0};
  for (std::size_t i = 0; i < std::min<std::size_t>(3, ids.size()); ++i) {
    last[2 - i] = static_cast<std::uint32_t>(ids[ids.size() - 1 - i]) + 1;
  }
  const std::uint32_t history = last[0] * 73856093U ^ last[1] * 19349663U ^ last[2] * 83492791U;
  for (std::int64_t token = 0; token < vocab_size_; ++token) {
    logits_.push_back(static_cast<float>((formula_share(history, token) - 0.5) * spread_));
  }
}

MakeTextDecoder text_decoder_of(std::vector<std::string> texts) {
  return [shared = std::make_shared<const std::vector<std::string>>(std::move(texts))] {
    return std::make_unique<TableTextDecoder>(*shared);
  };
}

}  // namespace mamba2
