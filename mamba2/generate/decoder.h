#pragma once

#include <cstdint>
#include <span>

namespace mamba2 {

/// Tokens of one row to feed now.
struct DecoderInput {
  std::int64_t row = 0;
  std::span<const std::int32_t> ids;  ///< one at least
  bool wants_logits = true;
};

/// What a search asks of a model: rows that each hold the state of one sequence, fed with tokens together.
class Decoder {
 public:
  virtual ~Decoder() = default;

  virtual std::int64_t vocab_size() const = 0;
  /// Makes so many rows, each before its first token; earlier ones are gone.
  virtual void allocate(std::int64_t rows) = 0;
  /// Puts a row before its first token.
  virtual void reset(std::int64_t row) = 0;
  /// Row `to` becomes what row `from` is.
  virtual void copy(std::int64_t from, std::int64_t to) = 0;
  /// Row i becomes what row sources[i] was, for all rows.
  virtual void reorder(std::span<const std::int64_t> sources) = 0;
  /// Feeds each named row its tokens.  Returns the logits after the last token of each input that wants them, in their
  /// order (inputs, vocab_size); the caller may write to them, the next feed() ends them.
  virtual std::span<float> feed(std::span<const DecoderInput> inputs) = 0;
};

}  // namespace mamba2
