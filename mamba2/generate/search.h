#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "mamba2/generate/generate.h"
#include "mamba2/generate/logits_processor.h"
#include "mamba2/generate/sampler.h"

namespace mamba2 {

/// A prompt as a search takes it: checked, never empty.
struct Prompt {
  std::vector<std::int32_t> ids;
  std::int64_t max_length = 0;
  std::size_t result = 0;       ///< place of its first sequence in the output
  std::int64_t copies = 1;      ///< how many sequences go on from it, at most max_rows without beams
  std::int64_t first_copy = 0;  ///< sequences that the same prompt has before these
};

/// What a search works with.  Results are there already, one for each sequence to return, those of a prompt together.
struct Search {
  Decoder& decoder;
  const GenerationConfig& config;  ///< validated, filled from defaults()
  std::span<const LogitsProcessor> processors;
  const Stopping& stopping;
  const MakeTextDecoder& make_text_decoder;
  const std::atomic<bool>* cancel;
  BaseStreamer* streamer;
  std::int64_t max_rows;
  std::span<const Prompt> prompts;
  GenerateOutput& output;

  void process(const History& history, std::span<float> scores) const {
    for (const LogitsProcessor& processor : processors) processor(history, scores);
  }
};

/// Rows of a decoder and which of them are free.
class RowPool {
 public:
  RowPool(Decoder& decoder, std::int64_t rows);
  std::int64_t free() const { return std::ssize(free_); }
  std::int64_t size() const { return size_; }
  /// A row with any contents; free() > 0.
  std::int64_t take();
  /// Puts a row that was taken before its first token.
  void start_afresh(std::int64_t row);
  void give_back(std::int64_t row);

 private:
  Decoder& decoder_;
  std::int64_t size_;
  std::vector<std::int64_t> free_;
  std::vector<bool> used_;  // by whom had them before
};

/// Feeds each prompt into its row, in pieces between which a cancellation is seen, and gives the logits after the last
/// token of each (prompts, vocab_size), which the caller may write to; empty where cancelled.
std::vector<float> prefill(const Search& search, std::span<const DecoderInput> prompts);

/// Feeds one token to each row and counts the time.
std::span<float> decode(const Search& search, std::span<const DecoderInput> tokens);

/// Greedy search, or sampling where do_sample is set.
void sample_search(const Search& search);
/// Beam search, or beam sampling where do_sample is set.
void beam_search(const Search& search);

}  // namespace mamba2
