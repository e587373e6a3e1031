#include "mamba2/tokenizer/added_tokens.h"

#include <algorithm>

#include "mamba2/tokenizer/unicode.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

bool is_single_word(std::string_view text, std::size_t begin, std::size_t end) {
  const bool joins_left = begin > 0 && is_word(decode_valid_utf8(text, last_character(text.substr(0, begin))).value);
  const bool joins_right = end < text.size() && is_word(decode_valid_utf8(text, end).value);
  return !joins_left && !joins_right;
}

/// Start of the white space that ends at `end`, not before floor.
std::size_t space_before(std::string_view text, std::size_t end, std::size_t floor) {
  while (end > floor) {
    const std::size_t at = last_character(text.substr(0, end));
    if (at < floor || !is_whitespace(decode_valid_utf8(text, at).value)) break;
    end = at;
  }
  return end;
}

std::size_t space_after(std::string_view text, std::size_t begin) {
  while (begin < text.size()) {
    const CodePoint next = decode_valid_utf8(text, begin);
    if (!is_whitespace(next.value)) break;
    begin += next.size;
  }
  return begin;
}

}  // namespace

void AddedTokenMatcher::add(std::string_view text, const AddedToken& token) {
  trie_.add(text, static_cast<std::int32_t>(tokens_.size()));
  tokens_.push_back(&token);
}

std::size_t AddedTokenMatcher::next_candidate(std::string_view text, std::size_t from) const {
  while (from < text.size() && !trie_.starts(text[from])) ++from;
  return from;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<Part>& parts) const {
  std::size_t done = 0;  // everything before it is in parts
  std::size_t at = trie_.empty() ? text.size() : 0;
  while ((at = next_candidate(text, at)) < text.size()) {
    const ByteTrie::Match match = trie_.longest_prefix(text.substr(at));
    if (match.value == ByteTrie::none) {
      ++at;
      continue;
    }
    const AddedToken& token = *tokens_[static_cast<std::size_t>(match.value)];
    std::size_t begin = at, end = at + match.size;
    at = end;
    if (token.flags.single_word && !is_single_word(text, begin, end)) continue;
    if (token.flags.lstrip) begin = std::max(space_before(text, begin, std::min(done, begin)), done);
    if (token.flags.rstrip) end = space_after(text, end);
    if (done < begin) parts.push_back({text.substr(done, begin - done), nullptr});
    // Nothing is left of a token whose white space the one before it has taken.
    if (begin < end) parts.push_back({text.substr(begin, end - begin), &token});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), nullptr});
}

}  // namespace mamba2
