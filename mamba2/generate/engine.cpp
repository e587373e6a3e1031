#include "mamba2/generate/engine.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/base/log.h"
#include "mamba2/generate/device_choice.h"
#include "mamba2/generate/engine_job.h"
#include "mamba2/generate/engine_queue.h"
#include "mamba2/generate/model_decoder.h"
#include "mamba2/generate/prefix_cache.h"
#include "mamba2/generate/search.h"

namespace mamba2 {

namespace {

EngineOptions complete(EngineOptions options, const Decoder& decoder) {
  require(options.slots >= 1, "slots is {}, expected 1 or more", options.slots);
  require(options.step_tokens >= 0, "step_tokens is {}, expected 0 or more", options.step_tokens);
  require(options.prefill_piece >= 0, "prefill_piece is {}, expected 0 or more", options.prefill_piece);
  require(options.most_waiting >= 1, "most_waiting is {}, expected 1 or more", options.most_waiting);
  const std::int64_t piece = decoder.piece_tokens();
  if (options.step_tokens == 0) options.step_tokens = piece;
  if (options.prefill_piece == 0) options.prefill_piece = std::max<std::int64_t>(1, piece / 2);
  return options;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Engine::Engine(Decoder& decoder, const EngineOptions& options)
    : decoder_(decoder),
      options_(complete(options, decoder)),
      queue_(std::make_unique<EngineQueue>(options.most_waiting)),
      rows_(std::make_unique<RowPool>(decoder, options.slots)),
      prefixes_(std::make_unique<PrefixCache>(options_.prefill_piece,
                                              decoder.splittable() ? options.prefix_cache_bytes : 0)) {}

Engine::Engine(Mamba2ForCausalLM& model, const EngineOptions& options)
    : Engine(std::make_unique<ModelDecoder>(model), options) {}

Engine::Engine(std::unique_ptr<Decoder> decoder, const EngineOptions& options) : Engine(*decoder, options) {
  owned_decoder_ = std::move(decoder);
}

Engine::~Engine() {
  take_commands();
  cancel_jobs([](const EngineJob&) { return true; });
  for (; !under_way_.empty(); under_way_.pop_front()) {
    if (!under_way_.front().asks_for_tokens()) continue;
    try {
      (void)decoder_.take_tokens();  // nobody's any more
    } catch (const std::exception& thrown) {
      log_warning("a step of the engine failed: {}", thrown.what());
    }
  }
}

RequestId Engine::submit(Request request) {
  return queue_->submit(std::make_unique<EngineJob>(std::move(request), decoder_, options_.slots));
}

void Engine::cancel(RequestId id) {
  queue_->cancel(id);
}

void Engine::drop_snapshot(SnapshotId id) {
  queue_->drop(id);
}

bool Engine::step() {
  take_commands();
  cancel_jobs([](const EngineJob& job) { return job.stopping.cancelled(); });
  admit();
  Step next = plan();
  const bool started = !next.inputs.empty() && start(std::move(next));
  while (!under_way_.empty() && (under_way_.size() > 1 || !started || !under_way_.back().can_be_read_later()))
    finish_oldest();
  drop_ended();
  return !active_.empty() || !waiting_.empty() || queue_->has_commands();
}

void Engine::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    if (!step()) queue_->wait(stop);
  }
  take_commands();
  cancel_jobs([](const EngineJob&) { return true; });
}

void Engine::take_commands() {
  EngineCommands commands = queue_->take();
  for (std::unique_ptr<EngineJob>& job : commands.submitted) waiting_.push_back(std::move(job));
  for (const SnapshotId id : commands.dropped) snapshots_.erase(id);
  if (commands.cancelled.empty()) return;
  cancel_jobs([&](const EngineJob& job) { return std::ranges::count(commands.cancelled, job.id) > 0; });
}

void Engine::cancel_jobs(const std::function<bool(const EngineJob&)>& condition) {
  for (const std::unique_ptr<EngineJob>& job : active_)
    if (condition(*job)) end_all(*job, nullptr);
  drop_ended();
  std::erase_if(waiting_, [&](const std::unique_ptr<EngineJob>& job) {
    if (!condition(*job)) return false;
    end_all(*job, nullptr);
    queue_->stopped_waiting();
    return true;
  });
}

void Engine::admit() {
  while (!waiting_.empty() && rows_->free() >= std::ssize(waiting_.front()->sequences)) {
    active_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    queue_->stopped_waiting();
    begin(*active_.back());
    drop_ended();
  }
}

/// Takes rows, and puts the first one where the prompt starts.
void Engine::begin(EngineJob& job) {
  for (EngineSequence& sequence : job.sequences) sequence.row = rows_->take();
  try {
    const std::int64_t row = job.sequences.front().row;
    if (job.request.from != 0) {
      const Snapshot& snapshot = snapshot_for(job);
      decoder_.restore(*snapshot.state, row);
      job.fed = std::ssize(snapshot.ids);
      totals_.reused_tokens += job.fed;
      if (job.fed == job.prompt_length()) start_decoding(job, snapshot.logits);
    } else if (const PrefixCache::Entry* prefix = prefixes_->find(job.request.prompt_ids); prefix != nullptr) {
      decoder_.restore(*prefix->state, row);
      job.fed = std::ssize(prefix->ids);
      totals_.reused_tokens += job.fed;
    } else {
      rows_->start_afresh(row);
    }
  } catch (...) {
    end_all(job, std::current_exception());
  }
}

const Engine::Snapshot& Engine::snapshot_for(const EngineJob& job) const {
  const auto found = snapshots_.find(job.request.from);
  require(found != snapshots_.end(), "snapshot {} is not kept, or no longer", job.request.from);
  const std::vector<std::int32_t>&kept = found->second.ids, &prompt = job.request.prompt_ids;
  require(kept.size() <= prompt.size() && std::equal(kept.begin(), kept.end(), prompt.begin()),
          "the prompt does not begin with the {} tokens of snapshot {}", kept.size(), job.request.from);
  return found->second;
}

bool Engine::Step::asks_for_tokens() const {
  return std::ranges::any_of(inputs, [](const DecoderInput& input) { return input.next != nullptr; });
}

/// Whether the next step can be planned before this one's results are known.
bool Engine::Step::can_be_read_later() const {
  const auto waits = [](const DecoderInput& input) {
    return input.wants_logits || (input.next != nullptr && input.next->rule.repetition_penalty != 1);
  };
  return asks_for_tokens() && std::ranges::none_of(inputs, waits) &&
         std::ranges::none_of(parts, [](const Part& part) { return part.keeps_prefix; });
}

/// Chooses what the next step feeds; the class's comment says how.
Engine::Step Engine::plan() {
  Step step;
  for (const std::unique_ptr<EngineJob>& job : active_) {
    if (!job->decoding) continue;
    for (EngineSequence& sequence : job->sequences) {
      const bool full = std::ssize(sequence.ids) + sequence.unread >= job->max_length;
      if (!sequence.ended && !full) plan_token(step, *job, sequence);
    }
  }
  plan_prompts(step);
  return step;
}

void Engine::plan_token(Step& step, EngineJob& job, EngineSequence& sequence) {
  static constexpr std::array<std::int32_t, 1> unread{chosen_token};
  DecoderInput& input = step.inputs.emplace_back(DecoderInput{.row = sequence.row, .ids = unread});
  if (sequence.unread == 0) input.ids = std::span(sequence.ids).last(1);
  if (sequence.next) {
    input.wants_logits = false;
    input.next = &*sequence.next;
    sequence.next->step = std::ssize(sequence.ids) + sequence.unread - job.prompt_length();
    sequence.next->history = sequence.ids;
  }
  step.parts.push_back({.job = &job, .sequence = &sequence});
}

void Engine::plan_prompts(Step& step) {
  std::int64_t room = options_.step_tokens - std::ssize(step.inputs);
  bool first = true;
  for (const std::unique_ptr<EngineJob>& job : active_) {
    if (job->decoding || job->sequences.front().ended) continue;
    const std::int64_t length = job->prompt_length();
    const std::int64_t cut = (job->fed / options_.prefill_piece + 1) * options_.prefill_piece;
    const std::int64_t end = decoder_.splittable() ? std::min(cut, length) : length;
    const std::int64_t tokens = end - job->fed;
    if (!first && tokens > room) break;
    first = false;
    room -= tokens;
    plan_piece(step, *job, end);
  }
}

void Engine::plan_piece(Step& step, EngineJob& job, std::int64_t end) {
  EngineSequence& sequence = job.sequences.front();
  const std::int64_t tokens = end - job.fed;
  const auto prompt = std::span<const std::int32_t>(job.request.prompt_ids);
  DecoderInput input{.row = sequence.row,
                     .ids = prompt.subspan(static_cast<std::size_t>(job.fed), static_cast<std::size_t>(tokens)),
                     .wants_logits = end == job.prompt_length()};
  // Several sequences choose from the same logits, and a snapshot keeps them.
  if (input.wants_logits && sequence.next && job.sequences.size() == 1 && !job.request.on_snapshot) {
    input.wants_logits = false;
    input.next = &*sequence.next;
    sequence.next->step = 0;
    sequence.next->history = sequence.ids;
  }
  step.inputs.push_back(input);
  step.parts.push_back({.job = &job,
                        .sequence = &sequence,
                        .prompt_tokens = tokens,
                        .prompt_end = end,
                        .keeps_prefix = prefixes_->wants(prompt.first(static_cast<std::size_t>(end)))});
}

/// False where the step could not be started, which ends those that it was to feed.
bool Engine::start(Step step) {
  const auto start = std::chrono::steady_clock::now();
  try {
    step.logits = decoder_.feed(step.inputs);
  } catch (...) {
    for (const Part& part : step.parts) end_all(*part.job, std::current_exception());
    return false;
  }
  step.seconds = seconds_since(start);
  for (std::size_t i = 0; i < step.parts.size(); ++i) {
    const Part& part = step.parts[i];
    ++part.job->under_way;
    part.job->fed += part.prompt_tokens;
    if (step.inputs[i].next == nullptr) continue;
    ++part.sequence->unread;
    part.job->decoding = true;
  }
  under_way_.push_back(std::move(step));
  return true;
}

/// Waits for the oldest step and deals out what came of it.
void Engine::finish_oldest() {
  Step step = std::move(under_way_.front());
  under_way_.pop_front();
  for (std::size_t i = 0; i < step.parts.size(); ++i) {
    --step.parts[i].job->under_way;
    if (step.inputs[i].next != nullptr) --step.parts[i].sequence->unread;
  }
  const auto start = std::chrono::steady_clock::now();
  std::span<const std::int32_t> tokens;
  try {
    if (step.asks_for_tokens()) tokens = decoder_.take_tokens();
  } catch (...) {
    for (const Part& part : step.parts) end_all(*part.job, std::current_exception());
    return;
  }
  step.seconds += seconds_since(start);
  count(step);
  distribute(step, tokens);
}

void Engine::count(const Step& step) {
  std::int64_t prefill = 0, decode = 0;
  for (const Part& part : step.parts) {
    prefill += part.prompt_tokens;
    decode += part.prompt_tokens == 0 ? 1 : 0;
  }
  const double share = static_cast<double>(prefill) / static_cast<double>(prefill + decode);
  ++totals_.steps;
  totals_.prefill_tokens += prefill;
  totals_.decode_tokens += decode;
  totals_.prefill_s += step.seconds * share;
  totals_.decode_s += step.seconds * (1 - share);
}

/// Gives each input of the step what came of it; sequences that ended meanwhile want nothing more.
void Engine::distribute(const Step& step, std::span<const std::int32_t> tokens) {
  const auto vocab_size = static_cast<std::size_t>(decoder_.vocab_size());
  std::span<float> logits = step.logits;
  for (std::size_t i = 0; i < step.inputs.size(); ++i) {
    const Part& part = step.parts[i];
    std::span<float> scores;
    if (step.inputs[i].wants_logits) {
      scores = logits.first(vocab_size);
      logits = logits.subspan(vocab_size);
    }
    std::int32_t token = chosen_token;
    if (step.inputs[i].next != nullptr) {
      token = tokens.front();
      tokens = tokens.subspan(1);
    }
    if (!part.sequence->ended && part.prompt_tokens > 0) advance_prompt(part, scores);
    if (part.sequence->ended) continue;
    if (step.inputs[i].next != nullptr)
      append(*part.job, *part.sequence, [token] { return checked_token(token); });
    else if (part.prompt_tokens == 0)
      extend(*part.job, *part.sequence, scores);
  }
}

/// logits: after the prompt's last token, where they were asked for.
void Engine::advance_prompt(const Part& part, std::span<const float> logits) {
  EngineJob& job = *part.job;
  try {
    const auto fed = std::span(job.request.prompt_ids).first(static_cast<std::size_t>(part.prompt_end));
    if (part.keeps_prefix && prefixes_->wants(fed)) prefixes_->insert(fed, decoder_.keep(part.sequence->row));
    if (!logits.empty()) start_decoding(job, logits);
  } catch (...) {
    end_all(job, std::current_exception());
  }
}

void Engine::keep_snapshot(const EngineJob& job, std::span<const float> logits) {
  Snapshot kept{.ids = job.request.prompt_ids,
                .state = decoder_.keep(job.sequences.front().row),
                .logits = {logits.begin(), logits.end()}};
  const SnapshotId id = ++last_snapshot_;
  job.request.on_snapshot(id);  // where it throws, nobody knows of the state and it goes
  snapshots_.emplace(id, std::move(kept));
}

/// Every sequence goes on from the prompt's row and chooses its first token.
void Engine::start_decoding(EngineJob& job, std::span<const float> logits) {
  if (job.request.on_snapshot) keep_snapshot(job, logits);
  const std::int64_t prompt_row = job.sequences.front().row;
  for (const EngineSequence& sequence : std::span(job.sequences).subspan(1)) decoder_.copy(prompt_row, sequence.row);
  job.decoding = true;
  std::vector<float> scores;
  for (EngineSequence& sequence : job.sequences) {
    scores.assign(logits.begin(), logits.end());
    extend(job, sequence, scores);
  }
}

/// Chooses the next token from its scores.
void Engine::extend(EngineJob& job, EngineSequence& sequence, std::span<float> scores) {
  append(job, sequence, [&] {
    const History history{sequence.ids, job.prompt_length(), job.max_length};
    for (const LogitsProcessor& process : job.processors) process(history, scores);
    const std::int64_t step = std::ssize(sequence.ids) - job.prompt_length();
    return *job.request.config.do_sample ? sample(scores, sequence.random.uniform(step, 0)) : argmax(scores);
  });
}

/// Adds the next token; where it can't be had, the sequence ends.
void Engine::append(EngineJob& job, EngineSequence& sequence, const std::function<std::int32_t()>& next) {
  try {
    const std::int32_t token = next();
    const std::optional<FinishReason> reason = job.stopping.after(sequence.ids, token, job.max_length);
    sequence.ids.push_back(token);
    if (job.request.on_token) job.request.on_token(sequence.number, token);
    if (reason) end(job, sequence, *reason, nullptr);
  } catch (...) {
    end(job, sequence, FinishReason::cancelled, std::current_exception());
  }
}

void Engine::end(EngineJob& job, EngineSequence& sequence, FinishReason reason, const std::exception_ptr& error) {
  if (sequence.ended) return;
  sequence.ended = true;
  if (sequence.row != EngineSequence::no_row) rows_->give_back(sequence.row);
  if (!job.request.on_end) return;
  const auto new_ids = std::span(sequence.ids).subspan(static_cast<std::size_t>(job.prompt_length()));
  try {
    job.request.on_end({.sequence = sequence.number, .reason = reason, .new_ids = new_ids, .error = error});
  } catch (const std::exception& thrown) {
    log_warning("request {}: on_end failed: {}", job.id, thrown.what());
  }
}

void Engine::end_all(EngineJob& job, const std::exception_ptr& error) {
  for (EngineSequence& sequence : job.sequences) end(job, sequence, FinishReason::cancelled, error);
}

void Engine::drop_ended() {
  std::erase_if(active_, [](const std::unique_ptr<EngineJob>& job) { return job->over(); });
}

}  // namespace mamba2
