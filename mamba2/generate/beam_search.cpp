// Beam search: the beams of several prompts are fed together; each prompt's group decides for itself.

#include <algorithm>
#include <memory>
#include <numeric>

#include "mamba2/generate/beam_group.h"
#include "mamba2/generate/search.h"

namespace mamba2 {

namespace {

class BeamSearch {
 public:
  explicit BeamSearch(const Search& search)
      : search_(search),
        beams_(*search.config.num_beams),
        pool_(search.decoder, std::max(beams_, std::min(search.max_rows, beams_ * std::ssize(search.prompts)))),
        sources_(static_cast<std::size_t>(pool_.size())) {
    std::iota(sources_.begin(), sources_.end(), 0);
  }

  void run() {
    for (admit(); !active_.empty() && !search_.stopping.cancelled(); admit()) step();
    for (const Active& active : active_) active.group->finish(FinishReason::cancelled);
  }

 private:
  struct Active {
    std::unique_ptr<BeamGroup> group;
    std::vector<std::int64_t> rows;  // one a beam
  };

  std::size_t logits_of_group() const { return static_cast<std::size_t>(beams_ * search_.decoder.vocab_size()); }

  /// Starts as many waiting prompts as there are rows for.
  void admit() {
    if (search_.stopping.cancelled()) return;
    const std::size_t first_new = active_.size();
    std::vector<DecoderInput> inputs;
    for (; next_prompt_ < search_.prompts.size() && pool_.free() >= beams_; ++next_prompt_) {
      const Prompt& prompt = search_.prompts[next_prompt_];
      Active& active = active_.emplace_back();
      active.group = std::make_unique<BeamGroup>(search_, prompt);
      while (std::ssize(active.rows) < beams_) active.rows.push_back(pool_.take());
      pool_.start_afresh(active.rows[0]);
      inputs.push_back({active.rows[0], prompt.ids, true});
    }
    if (inputs.empty()) return;
    const std::vector<float> logits = prefill(search_, inputs);
    if (logits.empty()) return;  // cancelled
    for (std::size_t i = first_new; i < active_.size(); ++i) start(active_[i], i - first_new, logits);
    reorder_rows();
    drop_done();
  }

  /// Every beam starts as the prompt.
  void start(Active& active, std::size_t prompt, std::span<const float> logits) {
    const auto vocab_size = static_cast<std::size_t>(search_.decoder.vocab_size());
    const auto row = logits.subspan(prompt * vocab_size, vocab_size);
    std::vector<float> scores;
    for (std::int64_t beam = 0; beam < beams_; ++beam) scores.insert(scores.end(), row.begin(), row.end());
    for (const std::int64_t other : std::span(active.rows).subspan(1)) search_.decoder.copy(active.rows[0], other);
    advance(active, scores);
  }

  void step() {
    std::vector<DecoderInput> inputs;
    for (const Active& active : active_) {
      for (std::size_t beam = 0; beam < active.rows.size(); ++beam) {
        inputs.push_back({active.rows[beam], active.group->last_token(beam), true});
      }
    }
    const std::span<float> logits = decode(search_, inputs);
    for (std::size_t i = 0; i < active_.size(); ++i) {
      advance(active_[i], logits.subspan(i * logits_of_group(), logits_of_group()));
    }
    reorder_rows();
    drop_done();
  }

  /// Lets a group choose, and notes which rows its beams go on from.
  void advance(Active& active, std::span<float> logits) {
    const std::vector<std::size_t> continued = active.group->advance(logits);
    for (std::size_t beam = 0; beam < continued.size(); ++beam) {
      sources_[static_cast<std::size_t>(active.rows[beam])] = active.rows[continued[beam]];
    }
  }

  void reorder_rows() {
    std::vector<std::int64_t> unchanged(sources_.size());
    std::iota(unchanged.begin(), unchanged.end(), 0);
    if (sources_ != unchanged) search_.decoder.reorder(sources_);
    sources_ = std::move(unchanged);
  }

  void drop_done() {
    std::erase_if(active_, [this](const Active& active) {
      if (!active.group->done()) return false;
      active.group->finish(FinishReason::length);
      for (const std::int64_t row : active.rows) pool_.give_back(row);
      return true;
    });
  }

  const Search& search_;
  std::int64_t beams_;
  RowPool pool_;
  std::vector<std::int64_t> sources_;
  std::size_t next_prompt_ = 0;
  std::vector<Active> active_;
};

}  // namespace

void beam_search(const Search& search) {
  BeamSearch(search).run();
}

}  // namespace mamba2
