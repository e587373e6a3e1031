#include "mamba2/generate/search.h"

#include <algorithm>
#include <numeric>

namespace mamba2 {

RowPool::RowPool(Decoder& decoder, std::int64_t rows)
    : decoder_(decoder), size_(rows), free_(static_cast<std::size_t>(rows)), used_(static_cast<std::size_t>(rows)) {
  decoder_.allocate(rows);
  std::iota(free_.rbegin(), free_.rend(), 0);
}

std::int64_t RowPool::take() {
  const std::int64_t row = free_.back();
  free_.pop_back();
  return row;
}

void RowPool::start_afresh(std::int64_t row) {
  if (used_[static_cast<std::size_t>(row)]) decoder_.reset(row);
}

void RowPool::give_back(std::int64_t row) {
  used_[static_cast<std::size_t>(row)] = true;
  free_.push_back(row);
}

std::vector<float> prefill(const Search& search, std::span<const DecoderInput> prompts) {
  // 2048: some tenths of a second on a CPU, so that Ctrl-C is heard; a prompt's pieces do not depend on the others.
  const auto piece = static_cast<std::size_t>(std::max<std::int64_t>(2048, search.decoder.piece_tokens()));
  const auto start = std::chrono::steady_clock::now();
  const auto vocab_size = static_cast<std::size_t>(search.decoder.vocab_size());
  std::vector<float> logits(prompts.size() * vocab_size);
  std::size_t longest = 0;
  for (const DecoderInput& prompt : prompts) longest = std::max(longest, prompt.ids.size());

  for (std::size_t begin = 0; begin < longest; begin += piece) {
    if (search.stopping.cancelled()) return {};
    std::vector<DecoderInput> inputs;
    std::vector<std::size_t> finished;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const auto ids = prompts[i].ids;
      if (begin >= ids.size()) continue;
      const bool last = ids.size() - begin <= piece;
      inputs.push_back({prompts[i].row, ids.subspan(begin, std::min(piece, ids.size() - begin)), last});
      if (last) finished.push_back(i);
      search.output.timings.prefill_tokens += std::ssize(inputs.back().ids);
    }
    const std::span<const float> fed = search.decoder.feed(inputs);
    for (std::size_t i = 0; i < finished.size(); ++i) {
      const auto row = fed.subspan(i * vocab_size, vocab_size);
      std::copy(row.begin(), row.end(), logits.begin() + static_cast<std::ptrdiff_t>(finished[i] * vocab_size));
    }
  }
  search.output.timings.prefill_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return logits;
}

std::span<float> decode(const Search& search, std::span<const DecoderInput> tokens) {
  search.output.timings.decode_tokens += std::ssize(tokens);
  return search.decoder.feed(tokens);
}

}  // namespace mamba2
