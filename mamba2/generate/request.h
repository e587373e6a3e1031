#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <vector>

#include "mamba2/generate/generation_config.h"
#include "mamba2/generate/stopping.h"
#include "mamba2/generate/text_decoder.h"

namespace mamba2 {

using RequestId = std::uint64_t;
/// Names a state that an engine keeps; 0 names none.
using SnapshotId = std::uint64_t;

/// How one sequence of a request ended.
struct SequenceEnd {
  std::int64_t sequence = 0;  ///< from 0 to the request's num_return_sequences
  FinishReason reason = FinishReason::cancelled;
  std::span<const std::int32_t> new_ids;  ///< the end token included; for the length of the call
  std::exception_ptr error;               ///< set: it ended by this, and reason says nothing
};

/// A prompt to continue.  The callbacks are called by the thread that steps the engine, none after the last on_end;
/// they may call the engine's submit(), cancel() and drop_snapshot().  One that throws ends its sequence with what it
/// threw.
struct Request {
  /// Empty: bos_token_id.
  std::vector<std::int32_t> prompt_ids;
  /// As for generate(), num_beams 1.  Sampling is a function of seed, prompt and the sequence's number alone.
  GenerationConfig config;
  MakeTextDecoder make_text_decoder;          ///< for stop_strings; special tokens keep their text
  const std::atomic<bool>* cancel = nullptr;  ///< borrowed until the last on_end; looked at before each step
  /// Number of the first of its sequences for sampling: equal prompts with other numbers get other texts.
  std::int64_t first_copy = 0;
  /// Starts from this state, whose tokens prompt_ids must begin with, instead of computing it.
  SnapshotId from = 0;
  /// Set: the state after the prompt is kept, and this called with its name before the first on_token.
  std::function<void(SnapshotId)> on_snapshot;
  std::function<void(std::int64_t sequence, std::int32_t id)> on_token;
  std::function<void(const SequenceEnd&)> on_end;  ///< must not throw
};

}  // namespace mamba2
