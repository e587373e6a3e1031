#include "mamba2/base/error.h"

#include <algorithm>
#include <system_error>

namespace mamba2 {
namespace {

/// Bytes of the well-formed UTF-8 character at the start of text, 0 where there is none (RFC 3629, section 4).
std::size_t utf8_length(std::string_view text) {
  auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  auto in = [](unsigned value, unsigned low, unsigned high) { return low <= value && value <= high; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (in(first, 0xC2, 0xDF)) return in(byte(1), 0x80, 0xBF) ? 2 : 0;
  if (in(first, 0xE0, 0xEF)) {
    const unsigned low = first == 0xE0 ? 0xA0 : 0x80;
    const unsigned high = first == 0xED ? 0x9F : 0xBF;
    return in(byte(1), low, high) && in(byte(2), 0x80, 0xBF) ? 3 : 0;
  }
  if (in(first, 0xF0, 0xF4)) {
    const unsigned low = first == 0xF0 ? 0x90 : 0x80;
    const unsigned high = first == 0xF4 ? 0x8F : 0xBF;
    return in(byte(1), low, high) && in(byte(2), 0x80, 0xBF) && in(byte(3), 0x80, 0xBF) ? 4 : 0;
  }
  return 0;
}

/// How many characters of ASCII other than control characters text starts with.
std::size_t plain_length(std::string_view text) {
  std::size_t length = 0;
  for (const char c : text) {
    if (c < ' ' || c > '~') break;  // above ASCII is one or the other, as char has a sign or not
    ++length;
  }
  return length;
}

}  // namespace

std::string printable(std::string_view text, std::size_t max_bytes) {
  std::string out;
  while (!text.empty()) {
    // Names are plain as a rule, and a reader asks for each one's before it knows whether anything is wrong with it.
    if (const std::size_t plain = plain_length(text); plain > 0) {
      const std::size_t room = max_bytes - std::min(out.size(), max_bytes);
      out += text.substr(0, std::min(plain, room));
      if (plain > room) return out + "...";
      text.remove_prefix(plain);
      continue;
    }
    const std::size_t length = utf8_length(text);
    const auto first = static_cast<unsigned char>(text.front());
    const bool control = first < 0x20 || first == 0x7F;
    const std::size_t taken = length == 0 ? 1 : length;
    if (out.size() + taken > max_bytes) return out + "...";
    if (length == 0 || control) {
      out += fmt::format("\\x{:02x}", first);
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(taken);
  }
  return out;
}

std::string error_text(int code) {
  return std::generic_category().message(code);
}

}  // namespace mamba2
