#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/tokenizer/regex.h"

namespace mamba2 {

/// A piece of text on its way to becoming words.
struct Piece {
  std::string_view text;
  bool starts_text;  ///< nothing of the original text stands before it
};

/// The pieces of a text in order, none of them empty, and the storage of those that are no longer part of it.
class PieceList {
 public:
  /// text_bytes: of the text to come, which bounds what own() takes.
  explicit PieceList(std::size_t text_bytes) : own_limit_(text_bytes * 32 + (std::size_t{1} << 16)) {}

  /// Starts over with one piece; what is owned stays.
  void reset(Piece whole);
  const std::vector<Piece>& pieces() const { return pieces_; }

  /// Collects a new list while the old one is read; replace() puts it in the old one's place.
  void add(Piece piece) {
    if (!piece.text.empty()) next_.push_back(piece);
  }
  void replace() {
    pieces_.swap(next_);
    next_.clear();
  }
  /// Keeps a text as long as the list.  Throws Error where texts grow past all reason.
  std::string_view own(std::string text);

 private:
  std::vector<Piece> pieces_, next_;
  std::deque<std::string> owned_;
  std::size_t owned_bytes_ = 0, own_limit_;
};

/// One step of tokenizer.json's pre_tokenizer.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(PieceList& list) const = 0;
};

using PreTokenizerPtr = std::unique_ptr<const PreTokenizer>;

/// What becomes of the text a Split matches.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
/// Whether the pattern tells what parts words or what words are.
enum class SplitBy { delimiters, words };

PreTokenizerPtr make_split(Pattern pattern, SplitBehavior behavior, SplitBy by);
/// Matches single characters.
PreTokenizerPtr make_character_split(std::function<bool(char32_t)> matches, SplitBehavior behavior);
/// Words are runs of word characters and runs of what is neither word nor white space.
PreTokenizerPtr make_whitespace_split();

struct ByteLevelOptions {
  bool add_prefix_space;  ///< a space before a piece that starts with none
  bool use_regex;         ///< split by GPT-2's pattern
  bool write_bytes;       ///< bytes become their byte-level characters; else that is left to the model
};
PreTokenizerPtr make_byte_level(ByteLevelOptions options);

enum class PrependScheme { always, first, never };
struct MetaspaceOptions {
  std::string replacement;  ///< the character that stands for a space
  PrependScheme prepend_scheme;
  bool split;  ///< cut before each replacement
};
PreTokenizerPtr make_metaspace(MetaspaceOptions options);

PreTokenizerPtr make_pre_tokenizer_sequence(std::vector<PreTokenizerPtr> steps);

}  // namespace mamba2
