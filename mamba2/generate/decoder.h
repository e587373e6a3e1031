#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "mamba2/ops/token_rule.h"

namespace mamba2 {

/// Tokens of one row to feed now.
struct DecoderInput {
  std::int64_t row = 0;
  std::span<const std::int32_t> ids;  ///< one at least; {chosen_token}: what the feed() before chose for the row
  bool wants_logits = true;
  const TokenRequest* next = nullptr;  ///< set: a token is asked for and no logits; where the decoder chooses tokens
};

/// The state of one row, kept apart from the rows.  Belongs to the decoder that made it and must not outlive it.
class RowSnapshot {
 public:
  virtual ~RowSnapshot() = default;
  virtual std::size_t bytes() const = 0;
};

/// What a search asks of a model: rows that each hold the state of one sequence, fed with tokens together.
class Decoder {
 public:
  virtual ~Decoder() = default;

  virtual std::int64_t vocab_size() const = 0;
  /// Tokens of a prompt that it works on at a time.
  virtual std::int64_t piece_tokens() const { return 1024; }
  /// Whether a prompt fed in parts gives what it gives as a whole, but for rounding.
  virtual bool splittable() const { return true; }
  /// Makes so many rows, each before its first token; earlier ones are gone.
  virtual void allocate(std::int64_t rows) = 0;
  /// Puts a row before its first token.
  virtual void reset(std::int64_t row) = 0;
  /// Row `to` becomes what row `from` is.
  virtual void copy(std::int64_t from, std::int64_t to) = 0;
  /// A copy of a row's state.
  virtual std::unique_ptr<RowSnapshot> keep(std::int64_t row) = 0;
  /// Row becomes what the kept one was.
  virtual void restore(const RowSnapshot& kept, std::int64_t row) = 0;
  /// Row i becomes what row sources[i] was, for all rows.
  virtual void reorder(std::span<const std::int64_t> sources) = 0;
  /// Feeds each named row its tokens.  Returns the logits after the last token of each input that wants them, in their
  /// order (inputs, vocab_size); the caller may write to them, the next feed() ends them.  Tokens that inputs ask for
  /// are under way when it returns.
  virtual std::span<float> feed(std::span<const DecoderInput> inputs) = 0;
  /// Whether inputs may ask for tokens.
  virtual bool chooses_tokens() const { return false; }
  /// What the oldest feed() chose whose tokens were asked for and not taken yet, or a TokenRefusal, in the order of the
  /// inputs that asked; waits for it.  The next call ends them.
  virtual std::span<const std::int32_t> take_tokens() { return {}; }
};

}  // namespace mamba2
