#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/tokenizer/merge.h"
#include "mamba2/tokenizer/word_cache.h"

namespace mamba2 {

/// What one call of encode keeps from word to word.
struct EncodeWorkspace {
  explicit EncodeWorkspace(std::size_t text_bytes) : cache(text_bytes) {}

  WordCache cache;
  MergeWorkspace merging;
  std::vector<Symbol> symbols;
  std::string text;
};

/// Turns a word, as pre-tokenization leaves it, into ids.
class WordModel {
 public:
  virtual ~WordModel() = default;
  /// Appends the ids of word to out.  word must outlive space.
  virtual void encode(std::string_view word, EncodeWorkspace& space, std::vector<std::int32_t>& out) const = 0;
};

}  // namespace mamba2
