#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/tokenizer/byte_trie.h"

namespace mamba2 {

/// A token of tokenizer.json's added_tokens: found in the text before the model sees it.
struct AddedToken {
  struct Flags {
    bool special = false;      ///< may be left out of decoded text
    bool normalized = false;   ///< looked for in the normalized text, in its own normalized form
    bool single_word = false;  ///< only where no word character stands next to it
    bool lstrip = false;       ///< takes the white space on its left
    bool rstrip = false;       ///< takes the white space on its right
  };
  std::string content;
  std::int32_t id = 0;
  Flags flags;
};

/// Finds added tokens of one kind (normalized or not) in text.
class AddedTokenMatcher {
 public:
  /// text is what to look for; token outlives the matcher.
  void add(std::string_view text, const AddedToken& token);

  /// A stretch of the text: a token, or text between tokens (token null).
  struct Part {
    std::string_view text;
    const AddedToken* token;
  };

  /// Cuts valid UTF-8 text up.  Of the tokens that start leftmost the longest counts; one that is found but isn't a
  /// word by itself though it must be stays text, and what it covers isn't looked at again.
  void split(std::string_view text, std::vector<Part>& parts) const;

 private:
  std::size_t next_candidate(std::string_view text, std::size_t from) const;

  ByteTrie trie_;
  std::vector<const AddedToken*> tokens_;
};

}  // namespace mamba2
