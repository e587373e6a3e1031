#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "mamba2/tokenizer/tokenizer.h"

namespace mamba2 {

/// Turns the tokens of one sequence to text as they come: what put() and finish() return is the text end to end, and
/// no piece ends within a character.
class TextDecoder {
 public:
  virtual ~TextDecoder() = default;
  /// Text that is certain with this token.
  virtual std::string put(std::int32_t id) = 0;
  /// What is left after the last token.
  virtual std::string finish() = 0;
};

/// A decoder for a sequence's start.
using MakeTextDecoder = std::function<std::unique_ptr<TextDecoder>()>;

/// Decoders by a tokenizer, which outlives them.  An id that the tokenizer does not have, as those that pad a model's
/// vocabulary, has no text.
MakeTextDecoder text_decoders(const Tokenizer& tokenizer, SpecialTokens special);

}  // namespace mamba2
