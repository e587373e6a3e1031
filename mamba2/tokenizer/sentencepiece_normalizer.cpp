#include "mamba2/tokenizer/sentencepiece_normalizer.h"

#include <bit>
#include <cstring>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/metaspace.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

static_assert(std::endian::native == std::endian::little, "the charsmap is read as it lies in the file");

// A unit of darts-clone's double array.
bool has_leaf(std::uint32_t unit) {
  return (unit >> 8 & 1) != 0;
}
std::uint32_t value_of(std::uint32_t unit) {
  return unit & 0x7FFFFFFF;
}
std::uint32_t label_of(std::uint32_t unit) {
  return unit & 0x800000FF;
}
std::uint32_t offset_of(std::uint32_t unit) {
  return (unit >> 10) << ((unit & 1U << 9) >> 6);
}

}  // namespace

PrecompiledCharsmap::PrecompiledCharsmap(std::string_view blob) {
  if (blob.empty()) return;
  std::uint32_t trie_bytes = 0;
  require(blob.size() > sizeof trie_bytes, "normalizer_spec.precompiled_charsmap: has {} bytes", blob.size());
  std::memcpy(&trie_bytes, blob.data(), sizeof trie_bytes);
  blob.remove_prefix(sizeof trie_bytes);
  require(trie_bytes < blob.size() && trie_bytes % sizeof(std::uint32_t) == 0 && trie_bytes > 0,
          "normalizer_spec.precompiled_charsmap: its trie has {} bytes of {}", trie_bytes, blob.size());
  units_.resize(trie_bytes / sizeof(std::uint32_t));
  std::memcpy(units_.data(), blob.data(), trie_bytes);
  replacements_ = blob.substr(trie_bytes);
  require(replacements_.back() == '\0', "normalizer_spec.precompiled_charsmap: ends inside a replacement");
  require(is_valid_utf8(replacements_), "normalizer_spec.precompiled_charsmap: holds a replacement that is no UTF-8");
}

PrecompiledCharsmap::Rule PrecompiledCharsmap::longest_rule(std::string_view text) const {
  Rule longest;
  if (units_.empty()) return longest;
  std::uint32_t position = offset_of(units_[0]);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    position ^= byte;
    if (position >= units_.size() || label_of(units_[position]) != byte) break;
    const std::uint32_t unit = units_[position];
    position ^= offset_of(unit);
    if (!has_leaf(unit)) continue;
    require(position < units_.size(), "normalizer_spec.precompiled_charsmap: points outside its trie");
    longest = {i + 1, replacement_at(value_of(units_[position]))};
  }
  return longest;
}

std::string_view PrecompiledCharsmap::replacement_at(std::uint32_t offset) const {
  require(offset < replacements_.size() && (static_cast<unsigned char>(replacements_[offset]) & 0xC0) != 0x80,
          "normalizer_spec.precompiled_charsmap: points outside its replacements");
  return replacements_.c_str() + offset;
}

SentencePieceNormalizer::SentencePieceNormalizer(const SentencePieceFile::Normalization& spec,
                                                 const ByteTrie& user_defined)
    : charsmap_(spec.precompiled_charsmap),
      add_dummy_prefix_(spec.add_dummy_prefix),
      remove_extra_whitespaces_(spec.remove_extra_whitespaces),
      treat_whitespace_as_suffix_(spec.treat_whitespace_as_suffix),
      space_(spec.escape_whitespaces ? metaspace : std::string_view(" ")),
      user_defined_(user_defined) {}

SentencePieceNormalizer::Step SentencePieceNormalizer::next(std::string_view text) const {
  if (user_defined_.starts(text.front())) {
    const std::size_t size = user_defined_.longest_prefix(text).size;
    if (size > 0) return {text.substr(0, size), size};
  }
  if (const auto rule = charsmap_.longest_rule(text); rule.size > 0) {
    // A rule ends where a character does, or what is left would be no UTF-8.
    const bool whole = rule.size == text.size() || (static_cast<unsigned char>(text[rule.size]) & 0xC0) != 0x80;
    require(whole, "normalizer_spec.precompiled_charsmap: replaces part of a character");
    return {rule.replacement, rule.size};
  }
  const std::size_t size = decode_valid_utf8(text, 0).size;
  return {text.substr(0, size), size};
}

void SentencePieceNormalizer::append(std::string& out, std::string_view text) const {
  for (const char c : text) {
    if (c == ' ')
      out += space_;
    else
      out += c;
  }
}

std::string SentencePieceNormalizer::normalize(std::string_view text) const {
  std::string out;
  while (remove_extra_whitespaces_ && !text.empty()) {
    const Step step = next(text);
    if (step.text != " ") break;
    text.remove_prefix(step.consumed);
  }
  if (text.empty()) return out;
  // NFKC, what grows texts most, makes 13 bytes of one.
  const std::size_t limit = text.size() * 32 + (std::size_t{1} << 16);
  out.reserve(text.size() + text.size() / 2);
  if (add_dummy_prefix_ && !treat_whitespace_as_suffix_) out += space_;
  bool after_space = remove_extra_whitespaces_;
  while (!text.empty()) {
    Step step = next(text);
    text.remove_prefix(step.consumed);
    while (after_space && step.text.starts_with(' ')) step.text.remove_prefix(1);
    if (step.text.empty()) continue;
    append(out, step.text);
    require(out.size() <= limit, "normalizer_spec.precompiled_charsmap: makes a text grow beyond {} bytes", limit);
    after_space = remove_extra_whitespaces_ && step.text.ends_with(' ');
  }
  while (remove_extra_whitespaces_ && out.ends_with(space_)) out.resize(out.size() - space_.size());
  if (add_dummy_prefix_ && treat_whitespace_as_suffix_) out += space_;
  return out;
}

}  // namespace mamba2
