#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mamba2 {

/// U+FFFD, what stands for bytes that are no UTF-8.
inline constexpr std::string_view replacement_character = "\xEF\xBF\xBD";

struct CodePoint {
  char32_t value;    ///< U+FFFD where invalid
  std::size_t size;  ///< bytes it takes; where invalid, the length of the maximal subpart (1 to 3)
  bool valid;
};

/// The character at the start of text, which isn't empty.  An ill-formed sequence counts as its maximal subpart (The
/// Unicode Standard 3.9, "U+FFFD substitution of maximal subparts"), as Python's errors="replace" has it.
CodePoint decode_utf8(std::string_view text);

/// The character at text[at], where text is known to be valid UTF-8 and at is the start of a character.
inline CodePoint decode_valid_utf8(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1, true};
  if (first < 0xE0) return {(first & 0x1F) << 6 | (byte(1) & 0x3F), 2, true};
  if (first < 0xF0) return {(first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3, true};
  return {(first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4, true};
}

/// Whether text is the well-formed start of one character and lacks its end.
bool is_incomplete_utf8(std::string_view text);

/// Start of the last character of text, which is valid UTF-8 and not empty.
std::size_t last_character(std::string_view text);

void append_utf8(std::string& out, char32_t character);

bool is_valid_utf8(std::string_view text);
bool is_ascii(std::string_view text);

/// text with each ill-formed sequence replaced by U+FFFD.
std::string to_valid_utf8(std::string_view text);

/// Turns a stream of bytes into valid UTF-8 as to_valid_utf8 would turn their sum, keeping back what may still become a
/// character.
class Utf8Assembler {
 public:
  /// Appends to out what is final.
  void push(std::string_view bytes, std::string& out);
  /// Appends the replacement of what was kept back.
  void finish(std::string& out);

 private:
  std::string pending_;
};

}  // namespace mamba2
