#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/tokenizer/byte_trie.h"
#include "mamba2/tokenizer/sentencepiece_file.h"

namespace mamba2 {

/// SentencePiece's precompiled_charsmap: a size, a trie of that many bytes as darts-clone lays a double array out
/// (Aoe 1989), and the replacements, each ended by a zero byte.  Little-endian.
class PrecompiledCharsmap {
 public:
  PrecompiledCharsmap() = default;
  /// Throws Error where the sizes don't fit.
  explicit PrecompiledCharsmap(std::string_view blob);

  bool empty() const { return units_.empty(); }

  struct Rule {
    std::size_t size = 0;  ///< bytes of the text it replaces; 0: there is none
    std::string_view replacement;
  };
  /// The rule with the longest text that `text` starts with.  Throws Error where the map points outside itself.
  Rule longest_rule(std::string_view text) const;

 private:
  std::string_view replacement_at(std::uint32_t offset) const;

  std::vector<std::uint32_t> units_;
  std::string replacements_;
};

/// SentencePiece's normalizer: replaces characters by the charsmap, adds the dummy prefix, removes extra spaces and
/// writes spaces as U+2581, each where the model says so.
class SentencePieceNormalizer {
 public:
  /// user_defined, whose strings are left as they are, outlives the normalizer.
  SentencePieceNormalizer(const SentencePieceFile::Normalization& spec, const ByteTrie& user_defined);

  /// text is valid UTF-8.
  std::string normalize(std::string_view text) const;

 private:
  struct Step {
    std::string_view text;
    std::size_t consumed;
  };
  Step next(std::string_view text) const;
  void append(std::string& out, std::string_view text) const;

  PrecompiledCharsmap charsmap_;
  bool add_dummy_prefix_, remove_extra_whitespaces_, treat_whitespace_as_suffix_;
  std::string_view space_;
  const ByteTrie& user_defined_;
};

}  // namespace mamba2
