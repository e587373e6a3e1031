#pragma once

#include <cstddef>
#include <string_view>

namespace mamba2 {

/// U+2581, what SentencePiece writes for a space.
inline constexpr std::string_view metaspace = "\xE2\x96\x81";

/// Where in text, after `from`, the next metaspace stands that follows another character; text.size() where none does.
/// If no token spans such a place, the text on either side of it can be encoded by itself.
inline std::size_t next_metaspace_word(std::string_view text, std::size_t from) {
  std::size_t at = from;
  while (text.substr(at, metaspace.size()) == metaspace) at += metaspace.size();
  const std::size_t next = text.find(metaspace, at);
  return next == std::string_view::npos ? text.size() : next;
}

/// Whether a token has a metaspace after another character.
inline bool spans_metaspace_words(std::string_view token) {
  return next_metaspace_word(token, 0) != token.size();
}

}  // namespace mamba2
