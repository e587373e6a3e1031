// Greedy search and sampling: every sequence goes its own way.  Sequences join as rows become free and leave as they
// end, so the batch holds only those that still grow.

#include <algorithm>
#include <utility>

#include "mamba2/generate/search.h"

namespace mamba2 {

namespace {

std::int64_t rows_for(const Search& search) {
  std::int64_t sequences = 0;
  for (const Prompt& prompt : search.prompts) sequences += prompt.copies;
  return std::min(search.max_rows, sequences);
}

class SampleSearch {
 public:
  explicit SampleSearch(const Search& search) : search_(search), pool_(search.decoder, rows_for(search)) {}

  void run() {
    for (admit(); !active_.empty() && !search_.stopping.cancelled(); admit()) step();
    for (const Sequence& sequence : active_) end(sequence, FinishReason::cancelled);
  }

 private:
  struct Sequence {
    std::int64_t row = 0;
    std::size_t result = 0;
    std::int64_t max_length = 0;
    std::vector<std::int32_t> ids;
    std::int64_t prompt_length = 0;
    SequenceRandom random;
  };

  GenerationResult& result_of(const Sequence& sequence) { return search_.output.results[sequence.result]; }

  /// Starts as many waiting prompts as there are rows for.
  void admit() {
    if (search_.stopping.cancelled()) return;
    const std::size_t first_new = active_.size();
    std::vector<DecoderInput> inputs;
    std::vector<std::size_t> input_of;  // for each new sequence
    for (; next_prompt_ < search_.prompts.size(); ++next_prompt_) {
      const Prompt& prompt = search_.prompts[next_prompt_];
      if (pool_.free() < prompt.copies) break;
      for (std::int64_t copy = 0; copy < prompt.copies; ++copy) {
        const std::size_t result = prompt.result + static_cast<std::size_t>(copy);
        active_.push_back({pool_.take(), result, prompt.max_length, prompt.ids, std::ssize(prompt.ids),
                           SequenceRandom(search_.config.seed.value(), prompt.ids, prompt.first_copy + copy)});
        if (copy == 0) inputs.push_back({active_.back().row, prompt.ids, true});
        input_of.push_back(inputs.size() - 1);
        if (search_.streamer != nullptr) search_.streamer->prompt(result, prompt.ids);
      }
    }
    if (inputs.empty()) return;
    const std::vector<float> logits = prefill(search_, inputs);
    if (logits.empty()) return;  // cancelled
    const auto fresh = std::span(active_).subspan(first_new);
    for (std::size_t i = 0; i < fresh.size(); ++i) {
      const std::int64_t prompt_row = inputs[input_of[i]].row;
      if (fresh[i].row != prompt_row) search_.decoder.copy(prompt_row, fresh[i].row);
    }
    for (std::size_t i = 0; i < fresh.size(); ++i) {
      const auto of_prompt = logits_of(std::span(logits), input_of[i]);
      std::vector<float> scores(of_prompt.begin(), of_prompt.end());
      extend(fresh[i], scores);
    }
    drop_ended();
  }

  template <class T>
  std::span<T> logits_of(std::span<T> logits, std::size_t input) const {
    const auto vocab_size = static_cast<std::size_t>(search_.decoder.vocab_size());
    return logits.subspan(input * vocab_size, vocab_size);
  }

  void step() {
    std::vector<DecoderInput> inputs;
    for (const Sequence& sequence : active_) inputs.push_back({sequence.row, std::span(sequence.ids).last(1), true});
    const std::span<float> logits = decode(search_, inputs);
    for (std::size_t i = 0; i < active_.size(); ++i) extend(active_[i], logits_of(logits, i));
    drop_ended();
  }

  /// Chooses the next token; a sequence that ends with it gives its row back.
  void extend(Sequence& sequence, std::span<float> scores) {
    search_.process({sequence.ids, sequence.prompt_length, sequence.max_length}, scores);
    const std::int64_t step = std::ssize(sequence.ids) - sequence.prompt_length;
    const std::int32_t token =
        *search_.config.do_sample ? sample(scores, sequence.random.uniform(step, 0)) : argmax(scores);
    const auto reason = search_.stopping.after(sequence.ids, token, sequence.max_length);
    sequence.ids.push_back(token);
    if (search_.streamer != nullptr) search_.streamer->put(sequence.result, {&token, 1});
    if (reason) {
      end(sequence, *reason);
      pool_.give_back(std::exchange(sequence.row, ended));
    }
  }

  void end(const Sequence& sequence, FinishReason reason) {
    GenerationResult& result = result_of(sequence);
    result.ids = sequence.ids;
    result.new_ids.assign(sequence.ids.begin() + sequence.prompt_length, sequence.ids.end());
    result.finish_reason = reason;
    if (search_.streamer != nullptr) search_.streamer->end(sequence.result);
  }

  void drop_ended() {
    std::erase_if(active_, [](const Sequence& sequence) { return sequence.row == ended; });
  }

  static constexpr std::int64_t ended = -1;

  const Search& search_;
  RowPool pool_;
  std::size_t next_prompt_ = 0;
  std::vector<Sequence> active_;
};

}  // namespace

void sample_search(const Search& search) {
  SampleSearch(search).run();
}

}  // namespace mamba2
