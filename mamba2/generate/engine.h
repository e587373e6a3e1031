#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <stop_token>
#include <vector>

#include "mamba2/generate/decoder.h"
#include "mamba2/generate/request.h"

namespace mamba2 {

class EngineQueue;
class Mamba2ForCausalLM;
class PrefixCache;
class RowPool;
struct EngineJob;
struct EngineSequence;

struct EngineOptions {
  /// Sequences in the model at a time, each with its state in memory; the others wait.
  std::int64_t slots = 64;
  /// Tokens that a step feeds, where pieces of prompts can be left for the next one.  More is better for throughput,
  /// less for the time between two tokens of those that decode.  0: as many as the decoder works on at a time.
  std::int64_t step_tokens = 0;
  /// Prompts are cut at multiples of this, counted from the sequence's start, and nowhere else.  The chunks in which a
  /// backend scans begin anew at a cut: at 512 that adds at most one to the six or more of a piece.  0: half of what
  /// the decoder works on at a time, 512 on cpu.  The prefix cache knows no shorter prefixes.
  std::int64_t prefill_piece = 0;
  /// Requests that may wait; one more is refused.
  std::int64_t most_waiting = 4096;
  /// Memory for states of earlier prompts, from which prompts that begin alike start; 0: none are kept.
  std::size_t prefix_cache_bytes = 0;
};

/// What an engine has done so far.  A step that feeds prompts and single tokens counts to each by its share of tokens.
struct EngineTotals {
  std::int64_t steps = 0;
  std::int64_t prefill_tokens = 0;  ///< fed
  std::int64_t reused_tokens = 0;   ///< of prompts, that came with a kept state instead
  std::int64_t decode_tokens = 0;
  double prefill_s = 0;  ///< in the model; choosing tokens and callbacks are not counted
  double decode_s = 0;
};

/// Continues many prompts at once: sequences join and leave the running batch at any step (continuous batching).
///
/// Threads: any may submit(), cancel() and drop_snapshot(); they only queue.  One thread owns inference: it calls
/// step() or run(), and all callbacks are made by it.  The model belongs to that thread meanwhile.
///
/// A step is one ragged forward.  Every sequence that decodes gets its next token in every step, so none waits for
/// prompts.  What step_tokens leaves goes to prompts in the order of their arrival, a piece each; at least one piece is
/// fed, however many decode.  So a step feeds at most max(step_tokens, slots + prefill_piece) tokens, and a prompt of n
/// tokens, once it is the eldest one that is not done, is done after n / prefill_piece steps.  Requests are admitted in
/// the order of their arrival as slots become free; none is overtaken.  (A model with dynamic RoPE gives something else
/// where a prompt is cut: there a prompt is one piece, however long.)
///
/// Where the decoder chooses the tokens of every sequence of a step, the next step is started before they are known
/// here, so that a device does not wait for callbacks.  (Rules with a repetition penalty look at the last token, so a
/// step with one is waited for.)  A sequence that ends by a token is then seen to end a step late: what the step under
/// way gives for it is dropped.  Nobody else sees a difference.
///
/// A sequence's tokens are a function of its request and of prefill_piece alone: not of its neighbours, of the order of
/// arrival, of threads, of what the prefix cache holds.  (Exceptions are backends that take other kernels, which round
/// otherwise, for more rows: cpu with bf16 weights on avx512_bf16 and amx, unless it is deterministic, and GPUs, as far
/// as docs/architecture.md says.)  prefill_piece counts by rounding only, and not at all on backends that are
/// deterministic or scan token by token.  Explicit snapshots are kept where a prompt ends, which may be within a piece:
/// a longer prompt that starts from one is cut there too, with the same effect.
///
/// Errors: submit() refuses what can't be done.  What goes wrong with one sequence later (no token can be chosen, a
/// callback throws) ends that sequence and no other.  An error of the model itself (no memory) ends those that the step
/// fed; the engine goes on with the others.
class Engine {
 public:
  /// model outlives the engine, and nobody else uses it meanwhile.
  explicit Engine(Mamba2ForCausalLM& model, const EngineOptions& options = {});
  /// Over anything that decodes; its rows are the engine's from now on.
  explicit Engine(Decoder& decoder, const EngineOptions& options = {});
  /// Ends what still runs or waits as cancelled.
  ~Engine();

  // Any thread.

  /// Queues a request.  Throws Error for an invalid config, a prompt that is too long or holds an id outside the
  /// vocabulary, more sequences than slots, a full queue.
  RequestId submit(Request request);
  /// Ends a request's sequences with what they have, before the next step.  An id that is unknown or over is no error.
  void cancel(RequestId id);
  /// Frees a kept state.  Requests that start from it and have not been admitted end with an error.
  void drop_snapshot(SnapshotId id);

  // The thread that owns inference.

  /// Takes what was queued and does one step.  False where nothing is left to do.
  bool step();
  /// Steps, and sleeps while there is nothing to do, until a stop is asked for; then ends what is left as cancelled.
  /// What is submitted later is ended by the destructor, unless somebody steps again.
  void run(const std::stop_token& stop);
  const EngineTotals& totals() const { return totals_; }

 private:
  struct Snapshot {
    std::vector<std::int32_t> ids;
    std::unique_ptr<RowSnapshot> state;
    std::vector<float> logits;  // after the last of ids
  };
  /// What an input of a step belongs to.
  struct Part {
    EngineJob* job;
    EngineSequence* sequence;
    std::int64_t prompt_tokens = 0;  // 0: the input is a new token
    std::int64_t prompt_end = 0;     // prompt tokens that the row then holds
    bool keeps_prefix = false;       // the prefix cache wants the state after it
  };
  /// What is fed together.
  struct Step {
    std::vector<DecoderInput> inputs;
    std::vector<Part> parts;  // one an input
    std::span<float> logits;  // of the inputs that want them
    double seconds = 0;       // in the decoder

    bool asks_for_tokens() const;
    bool can_be_read_later() const;
  };

  Engine(std::unique_ptr<Decoder> decoder, const EngineOptions& options);

  void take_commands();
  void cancel_jobs(const std::function<bool(const EngineJob&)>& condition);
  void admit();
  void begin(EngineJob& job);
  const Snapshot& snapshot_for(const EngineJob& job) const;
  Step plan();
  void plan_token(Step& step, EngineJob& job, EngineSequence& sequence);
  void plan_prompts(Step& step);
  void plan_piece(Step& step, EngineJob& job, std::int64_t end);
  bool start(Step step);
  void finish_oldest();
  void count(const Step& step);
  void distribute(const Step& step, std::span<const std::int32_t> tokens);
  void advance_prompt(const Part& part, std::span<const float> logits);
  void keep_snapshot(const EngineJob& job, std::span<const float> logits);
  void start_decoding(EngineJob& job, std::span<const float> logits);
  void extend(EngineJob& job, EngineSequence& sequence, std::span<float> scores);
  void append(EngineJob& job, EngineSequence& sequence, const std::function<std::int32_t()>& next);
  void end(EngineJob& job, EngineSequence& sequence, FinishReason reason, const std::exception_ptr& error);
  void end_all(EngineJob& job, const std::exception_ptr& error);
  void drop_ended();

  std::unique_ptr<Decoder> owned_decoder_;
  Decoder& decoder_;
  const EngineOptions options_;
  std::unique_ptr<EngineQueue> queue_;
  std::unique_ptr<RowPool> rows_;
  std::unique_ptr<PrefixCache> prefixes_;
  std::map<SnapshotId, Snapshot> snapshots_;
  SnapshotId last_snapshot_ = 0;
  std::deque<std::unique_ptr<EngineJob>> waiting_;
  std::vector<std::unique_ptr<EngineJob>> active_;  // in the order of admission
  std::deque<Step> under_way_;                      // started and not read, oldest first
  EngineTotals totals_;
};

}  // namespace mamba2
