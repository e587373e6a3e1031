#include "mamba2/tokenizer/utf8.h"

#include <cstring>

namespace mamba2 {
namespace {

/// What the first byte of a sequence promises: its length and the range of its second byte (Unicode Standard, table
/// 3-7).
struct Lead {
  std::size_t size;
  unsigned char second_min, second_max;
};

Lead lead_of(unsigned char first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first == 0xE0) return {3, 0xA0, 0xBF};
  if (first == 0xED) return {3, 0x80, 0x9F};
  if (first < 0xF0) return {3, 0x80, 0xBF};
  if (first == 0xF0) return {4, 0x90, 0xBF};
  if (first < 0xF4) return {4, 0x80, 0xBF};
  if (first == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

/// How many bytes at the start of text belong to the well-formed start of one character, and how many it needs.
struct Prefix {
  std::size_t have, need;
};

Prefix prefix_of(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const Lead lead = lead_of(byte(0));
  if (lead.size <= 1) return {1, lead.size};
  std::size_t have = 1;
  while (have < lead.size && have < text.size()) {
    const unsigned char low = have == 1 ? lead.second_min : 0x80, high = have == 1 ? lead.second_max : 0xBF;
    if (byte(have) < low || byte(have) > high) break;
    ++have;
  }
  return {have, lead.size};
}

/// Index of the first byte at or after `at` that is not ASCII.
std::size_t skip_ascii(std::string_view text, std::size_t at) {
  constexpr std::uint64_t high_bits = 0x8080808080808080ULL;
  while (at + sizeof(std::uint64_t) <= text.size()) {
    std::uint64_t word;
    std::memcpy(&word, text.data() + at, sizeof word);
    if ((word & high_bits) != 0) break;
    at += sizeof word;
  }
  while (at < text.size() && static_cast<unsigned char>(text[at]) < 0x80) ++at;
  return at;
}

}  // namespace

CodePoint decode_utf8(std::string_view text) {
  const Prefix prefix = prefix_of(text);
  if (prefix.have != prefix.need) return {0xFFFD, prefix.have, false};
  return decode_valid_utf8(text, 0);
}

bool is_incomplete_utf8(std::string_view text) {
  if (text.empty()) return false;
  const Prefix prefix = prefix_of(text);
  return prefix.have < prefix.need && prefix.have == text.size();
}

std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

void append_utf8(std::string& out, char32_t character) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (character < 0x80) {
    put(character);
  } else if (character < 0x800) {
    put(0xC0 | character >> 6);
    put(0x80 | (character & 0x3F));
  } else if (character < 0x10000) {
    put(0xE0 | character >> 12);
    put(0x80 | (character >> 6 & 0x3F));
    put(0x80 | (character & 0x3F));
  } else {
    put(0xF0 | character >> 18);
    put(0x80 | (character >> 12 & 0x3F));
    put(0x80 | (character >> 6 & 0x3F));
    put(0x80 | (character & 0x3F));
  }
}

bool is_ascii(std::string_view text) {
  return skip_ascii(text, 0) == text.size();
}

bool is_valid_utf8(std::string_view text) {
  for (std::size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at)) {
    const Prefix prefix = prefix_of(text.substr(at));
    if (prefix.have != prefix.need) return false;
    at += prefix.need;
  }
  return true;
}

std::string to_valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t ascii_end = skip_ascii(text, at);
    out.append(text, at, ascii_end - at);
    at = ascii_end;
    if (at == text.size()) break;
    const Prefix prefix = prefix_of(text.substr(at));
    out += prefix.have == prefix.need ? text.substr(at, prefix.need) : replacement_character;
    at += prefix.have;
  }
  return out;
}

void Utf8Assembler::push(std::string_view bytes, std::string& out) {
  pending_ += bytes;
  std::size_t at = 0;
  while (at < pending_.size()) {
    const std::string_view rest = std::string_view(pending_).substr(at);
    const Prefix prefix = prefix_of(rest);
    if (prefix.have < prefix.need && prefix.have == rest.size()) break;  // the next bytes may complete it
    out += prefix.have == prefix.need ? rest.substr(0, prefix.need) : replacement_character;
    at += prefix.have;
  }
  pending_.erase(0, at);
}

void Utf8Assembler::finish(std::string& out) {
  if (!pending_.empty()) out += replacement_character;
  pending_.clear();
}

}  // namespace mamba2
