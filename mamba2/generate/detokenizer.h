#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace mamba2 {

/// Turns the tokens of one sequence to text as they come: what put() and finish() return is the text end to end, and
/// no piece ends within a character.
class Detokenizer {
 public:
  virtual ~Detokenizer() = default;
  /// Text that is certain with this token.
  virtual std::string put(std::int32_t id) = 0;
  /// What is left after the last token.
  virtual std::string finish() = 0;
};

/// A detokenizer for a sequence's start.
using MakeDetokenizer = std::function<std::unique_ptr<Detokenizer>()>;

}  // namespace mamba2
