#include "mamba2/tokenizer/byte_level.h"

#include "mamba2/tokenizer/unicode.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

/// One past the last character that stands for a byte: 68 bytes are not printable.
constexpr char32_t byte_level_end = 0x100 + 68;

bool stands_for_itself(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct ByteLevelMap {
  std::array<std::string, 256> characters;
  std::array<int, byte_level_end> bytes;

  ByteLevelMap() : characters(), bytes() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const char32_t character = stands_for_itself(byte) ? byte : next++;
      append_utf8(characters[byte], character);
      bytes[character] = static_cast<int>(byte);
    }
  }
};

const ByteLevelMap& byte_level_map() {
  static const ByteLevelMap map;
  return map;
}

enum class Class : unsigned char { letter, number, space, other };

struct Classified {
  Class kind;
  std::size_t size;
};

Class classify(char32_t character) {
  if (is_whitespace(character)) return Class::space;
  if (is_letter(character)) return Class::letter;
  return is_number(character) ? Class::number : Class::other;
}

std::array<Class, 128> classify_ascii() {
  std::array<Class, 128> table{};
  for (char32_t c = 0; c < 128; ++c) table[c] = classify(c);
  return table;
}

Classified class_at(std::string_view text, std::size_t at) {
  static const std::array<Class, 128> ascii = classify_ascii();
  const auto first = static_cast<unsigned char>(text[at]);
  if (first < 0x80) return {ascii[first], 1};
  const CodePoint next = decode_valid_utf8(text, at);
  return {classify(next.value), next.size};
}

std::size_t end_of_run(std::string_view text, std::size_t at, Class kind) {
  while (at < text.size()) {
    const Classified next = class_at(text, at);
    if (next.kind != kind) break;
    at += next.size;
  }
  return at;
}

/// 's 't 're 've 'm 'll 'd: how many bytes of one start text, 0 for none.
std::size_t contraction(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  const char first = text[1];
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if (text.size() < 3) return 0;
  const char second = text[2];
  const bool found = (second == 'e' && (first == 'r' || first == 'v')) || (first == 'l' && second == 'l');
  return found ? 3 : 0;
}

/// White space up to what follows it: all of it at the end of the text, else all but its last character, which the next
/// piece takes if it is a space; at least one.
std::size_t end_of_space(std::string_view text, std::size_t from) {
  std::size_t at = from, last = from;
  while (at < text.size()) {
    const Classified next = class_at(text, at);
    if (next.kind != Class::space) return last == from ? at : last;
    last = at;
    at += next.size;
  }
  return at;
}

}  // namespace

const std::array<std::string, 256>& byte_level_characters() {
  return byte_level_map().characters;
}

int byte_of_byte_level_character(char32_t character) {
  return character < byte_level_end ? byte_level_map().bytes[character] : -1;
}

std::string to_byte_level(std::string_view text) {
  const auto& characters = byte_level_characters();
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  for (const char byte : text) out += characters[static_cast<unsigned char>(byte)];
  return out;
}

std::size_t gpt2_piece_end(std::string_view text, std::size_t from) {
  if (const std::size_t size = contraction(text.substr(from)); size != 0) return from + size;
  const Classified first = class_at(text, from);
  if (first.kind != Class::space) return end_of_run(text, from + first.size, first.kind);
  if (text[from] == ' ' && from + 1 < text.size()) {
    const Classified next = class_at(text, from + 1);
    if (next.kind != Class::space) return end_of_run(text, from + 1 + next.size, next.kind);
  }
  return end_of_space(text, from);
}

}  // namespace mamba2
