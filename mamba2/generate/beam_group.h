#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mamba2/generate/search.h"

namespace mamba2 {

/// The beams of one prompt, as transformers 5.17 searches them: num_beams running ones, and the best num_beams finished
/// ones found so far.  Each step looks at the best num_beams * max(2, 1 + end tokens) continuations of all beams (or
/// draws so many, where do_sample is set), of which the first num_beams may finish and the best that do not end run on.
class BeamGroup {
 public:
  BeamGroup(const Search& search, const Prompt& prompt);

  /// Takes the logits after each beam's last token (num_beams, vocab_size), which it overwrites, and chooses the next
  /// beams.  Returns for each the beam that it continues.
  std::vector<std::size_t> advance(std::span<float> logits);
  /// Nothing better is to come.
  bool done() const { return done_; }
  /// The newest token of a beam, to feed next.
  std::span<const std::int32_t> last_token(std::size_t beam) const { return std::span(running_[beam].ids).last(1); }
  /// Writes the results; beams that still run stand in where too few have finished.
  void finish(FinishReason reason_of_running) const;

 private:
  struct Running {
    std::vector<std::int32_t> ids;
    float score = 0;  // sum of log probabilities
  };
  struct Hypothesis {
    std::vector<std::int32_t> ids;
    float score = 0;  // as compared: over length^length_penalty
    bool finished = false;
    FinishReason reason = FinishReason::length;
  };
  /// A beam and its next token.
  struct Candidate {
    std::size_t beam = 0;
    std::int32_t token = 0;
    float score = 0;
    std::optional<FinishReason> ends;
  };

  void accumulate(std::span<float> logits) const;
  std::vector<Candidate> best_candidates(std::span<const float> scores) const;
  std::vector<std::size_t> run_on(std::span<const Candidate> candidates);
  void update_finished(std::span<const Candidate> candidates);
  void check_done(std::span<const Candidate> candidates);
  bool all_finished() const;
  float length_norm(std::int64_t new_tokens) const;
  std::vector<std::int32_t> continued(const Candidate& candidate) const;

  const Search& search_;
  const Prompt& prompt_;
  std::size_t beams_;
  SequenceRandom random_;
  std::vector<Running> running_;
  std::vector<Hypothesis> best_;  // best first
  std::int64_t new_tokens_ = 0;
  bool can_improve_ = true;
  bool done_ = false;
};

}  // namespace mamba2
