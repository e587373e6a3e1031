#include "mamba2/generate/beam_group.h"

#include <algorithm>
#include <cmath>

#include "mamba2/generate/ranking.h"
#include "mamba2/generate/softmax.h"

namespace mamba2 {

namespace {

/// What transformers adds to a score to take it out of the running, yet order it among others of its kind.
constexpr float out_of_question = -1.0e9F;

template <class T, class Score>
std::vector<std::size_t> order_by(std::span<const T> items, std::size_t count, Score score) {
  std::vector<float> scores(items.size());
  std::transform(items.begin(), items.end(), scores.begin(), score);
  return largest_indices(scores, count, Ties::lower_index_first);
}

}  // namespace

BeamGroup::BeamGroup(const Search& search, const Prompt& prompt)
    : search_(search),
      prompt_(prompt),
      beams_(static_cast<std::size_t>(*search.config.num_beams)),
      random_(search.config.seed.value(), prompt.ids, prompt.first_copy) {
  // All beams are the prompt at first: only one may be continued, or they would stay the same.
  running_.assign(beams_, {prompt.ids, out_of_question});
  running_[0].score = 0;
  best_.assign(beams_, {{}, out_of_question, false, FinishReason::length});
}

std::vector<std::size_t> BeamGroup::advance(std::span<float> logits) {
  accumulate(logits);
  std::vector<Candidate> candidates = best_candidates(logits);
  for (Candidate& candidate : candidates) {
    candidate.ends = search_.stopping.after(running_[candidate.beam].ids, candidate.token, prompt_.max_length);
  }
  ++new_tokens_;
  update_finished(candidates);
  std::vector<std::size_t> sources = run_on(candidates);
  check_done(candidates);
  return sources;
}

/// Logits become the scores of whole continuations.
void BeamGroup::accumulate(std::span<float> logits) const {
  const std::size_t vocab_size = logits.size() / beams_;
  for (std::size_t beam = 0; beam < beams_; ++beam) {
    const auto scores = logits.subspan(beam * vocab_size, vocab_size);
    log_softmax(scores);
    search_.process({running_[beam].ids, std::ssize(prompt_.ids), prompt_.max_length}, scores);
    for (float& score : scores) score += running_[beam].score;
  }
}

std::vector<BeamGroup::Candidate> BeamGroup::best_candidates(std::span<const float> scores) const {
  const std::size_t eos = search_.config.eos_token_id ? search_.config.eos_token_id->size() : 0;
  const std::size_t count = std::max<std::size_t>(2, 1 + eos) * beams_;
  const auto uniform = [this](std::int64_t draw) { return random_.uniform(new_tokens_, draw); };
  const std::vector<std::size_t> chosen = *search_.config.do_sample
                                              ? sample_without_replacement(scores, count, uniform)
                                              : largest_indices(scores, count, Ties::lower_index_first);
  const std::size_t vocab_size = scores.size() / beams_;
  std::vector<Candidate> candidates;
  candidates.reserve(chosen.size());
  for (const std::size_t index : chosen) {
    candidates.push_back(
        {index / vocab_size, static_cast<std::int32_t>(index % vocab_size), scores[index], std::nullopt});
  }
  return candidates;
}

/// The best candidates that do not end become the running beams, best first.
std::vector<std::size_t> BeamGroup::run_on(std::span<const Candidate> candidates) {
  const auto running_score = [](const Candidate& c) { return c.ends ? c.score + out_of_question : c.score; };
  std::vector<Running> next;
  std::vector<std::size_t> sources;
  for (const std::size_t i : order_by(candidates, beams_, running_score)) {
    next.push_back({continued(candidates[i]), running_score(candidates[i])});
    sources.push_back(candidates[i].beam);
  }
  running_ = std::move(next);
  return sources;
}

/// The best of the finished beams and of the first num_beams candidates that end.
void BeamGroup::update_finished(std::span<const Candidate> candidates) {
  const float norm = length_norm(new_tokens_);
  const bool full = *search_.config.early_stopping == EarlyStopping::yes && all_finished();
  std::vector<Hypothesis> merged = best_;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& candidate = candidates[i];
    const bool finishes = candidate.ends && i < beams_;
    float score = candidate.score / norm;
    if (full) score += out_of_question;
    if (!can_improve_) score += out_of_question;
    if (!finishes) score += out_of_question;
    merged.push_back({finishes ? continued(candidate) : std::vector<std::int32_t>(), score, finishes,
                      candidate.ends.value_or(FinishReason::length)});
  }
  std::vector<Hypothesis> kept;
  for (const std::size_t i :
       order_by(std::span<const Hypothesis>(merged), beams_, [](const Hypothesis& h) { return h.score; })) {
    kept.push_back(std::move(merged[i]));
  }
  best_ = std::move(kept);
}

void BeamGroup::check_done(std::span<const Candidate> candidates) {
  const EarlyStopping early = *search_.config.early_stopping;
  const bool longest_wins = early == EarlyStopping::never && *search_.config.length_penalty > 0;
  const std::int64_t length = longest_wins ? prompt_.max_length - std::ssize(prompt_.ids) : new_tokens_;
  const float best_possible = running_[0].score / length_norm(length);
  can_improve_ = can_improve_ && std::any_of(best_.begin(), best_.end(), [&](const Hypothesis& h) {
                   return best_possible > (h.finished ? best_.back().score : out_of_question);
                 });
  const bool all_end = std::all_of(candidates.begin(), candidates.end(), [](const Candidate& c) { return c.ends; });
  done_ = !can_improve_ || all_end || (early == EarlyStopping::yes && all_finished());
}

void BeamGroup::finish(FinishReason reason_of_running) const {
  const auto returned = static_cast<std::size_t>(*search_.config.num_return_sequences);
  std::vector<Hypothesis> best;
  std::copy_if(best_.begin(), best_.end(), std::back_inserter(best), [](const Hypothesis& h) { return h.finished; });
  for (const Running& running : running_) {
    best.push_back(
        {running.ids, running.score / length_norm(std::max<std::int64_t>(new_tokens_, 1)), false, reason_of_running});
  }
  for (std::size_t i = 0; i < returned; ++i) {
    GenerationResult& result = search_.output.results[prompt_.result + i];
    result.ids = best[i].ids;
    result.new_ids.assign(result.ids.begin() + std::ssize(prompt_.ids), result.ids.end());
    result.finish_reason = best[i].reason;
    result.score = static_cast<double>(best[i].score);
    if (search_.streamer == nullptr) continue;
    search_.streamer->prompt(prompt_.result + i, prompt_.ids);
    search_.streamer->put(prompt_.result + i, result.new_ids);
    search_.streamer->end(prompt_.result + i);
  }
}

bool BeamGroup::all_finished() const {
  return std::all_of(best_.begin(), best_.end(), [](const Hypothesis& h) { return h.finished; });
}

float BeamGroup::length_norm(std::int64_t new_tokens) const {
  return static_cast<float>(std::pow(static_cast<double>(new_tokens), *search_.config.length_penalty));
}

std::vector<std::int32_t> BeamGroup::continued(const Candidate& candidate) const {
  std::vector<std::int32_t> ids = running_[candidate.beam].ids;
  ids.push_back(candidate.token);
  return ids;
}

}  // namespace mamba2
