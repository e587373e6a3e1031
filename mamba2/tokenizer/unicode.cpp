#include "mamba2/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/unicode_versions.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

utf8proc_category_t category(char32_t character) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(character));
}

utf8proc_int32_t combining_class(utf8proc_int32_t character) {
  return utf8proc_get_property(character)->combining_class;
}

/// Below this no character changes under NFC and none combines with what stands before it.
constexpr unsigned char first_lead_byte_nfc_changes = 0xCC;  // U+0300

bool is_unchanged(std::string_view text, NormalForm form) {
  const unsigned char limit = form == NormalForm::nfc ? first_lead_byte_nfc_changes : 0x80;
  return std::all_of(text.begin(), text.end(), [&](char c) { return static_cast<unsigned char>(c) < limit; });
}

utf8proc_option_t options_of(NormalForm form) {
  int options = UTF8PROC_STABLE;
  if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
  options |= form == NormalForm::nfc || form == NormalForm::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  return static_cast<utf8proc_option_t>(options);
}

void append_decomposed(std::vector<utf8proc_int32_t>& out, char32_t character, utf8proc_option_t options) {
  std::array<utf8proc_int32_t, 32> parts;  // 18 is the longest decomposition, U+FDFA's
  int boundary = 0;
  const auto decompose = static_cast<utf8proc_option_t>((options & ~UTF8PROC_COMPOSE) | UTF8PROC_DECOMPOSE);
  const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(character), parts.data(), parts.size(),
                                             decompose, &boundary);
  require(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()), "U+{:04X} can't be decomposed",
          static_cast<std::uint32_t>(character));
  out.insert(out.end(), parts.begin(), parts.begin() + count);
}

/// Canonical ordering: each run of combining marks sorted by class.  utf8proc's own sorts by exchange, which is
/// quadratic for a long run.
void order_marks(std::vector<utf8proc_int32_t>& characters) {
  for (auto at = characters.begin(); at != characters.end();) {
    at = std::find_if(at, characters.end(), [](auto c) { return combining_class(c) != 0; });
    const auto end = std::find_if(at, characters.end(), [](auto c) { return combining_class(c) == 0; });
    if (end - at > 1) std::stable_sort(at, end, [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    at = end;
  }
}

/// Puts decomposed characters into order, composes them where that is asked for, and appends them to out.
void flush(std::vector<utf8proc_int32_t>& buffer, utf8proc_option_t options, std::string& out) {
  order_marks(buffer);
  auto count = static_cast<utf8proc_ssize_t>(buffer.size());
  if ((options & UTF8PROC_COMPOSE) != 0) count = utf8proc_normalize_utf32(buffer.data(), count, options);
  for (utf8proc_ssize_t i = 0; i < count; ++i)
    append_utf8(out, static_cast<char32_t>(buffer[static_cast<std::size_t>(i)]));
  buffer.clear();
}

void append_normalized(std::string& out, std::string_view text, utf8proc_option_t options,
                       std::vector<utf8proc_int32_t>& buffer) {
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint next = decode_valid_utf8(text, at);
    at += next.size;
    if (!contains(not_yet_normalized, next.value)) {
      append_decomposed(buffer, next.value, options);
      continue;
    }
    flush(buffer, options, out);
    append_utf8(out, next.value);
  }
  flush(buffer, options, out);
}

}  // namespace

bool is_letter(char32_t character) {
  const auto found = category(character);
  return (found >= UTF8PROC_CATEGORY_LU && found <= UTF8PROC_CATEGORY_LO) ||
         (found == UTF8PROC_CATEGORY_CN && contains(newer_letters, character));
}

bool is_number(char32_t character) {
  const auto found = category(character);
  return (found >= UTF8PROC_CATEGORY_ND && found <= UTF8PROC_CATEGORY_NO) ||
         (found == UTF8PROC_CATEGORY_CN && contains(newer_numbers, character));
}

bool is_mark(char32_t character) {
  const auto found = category(character);
  return (found >= UTF8PROC_CATEGORY_MN && found <= UTF8PROC_CATEGORY_ME) ||
         (found == UTF8PROC_CATEGORY_CN && contains(newer_marks, character));
}

bool is_punctuation(char32_t character) {
  const auto found = category(character);
  if (found >= UTF8PROC_CATEGORY_PC && found <= UTF8PROC_CATEGORY_PO) return !contains(not_yet_punctuation, character);
  return character < 0x80 && found >= UTF8PROC_CATEGORY_SM && found <= UTF8PROC_CATEGORY_SO;
}

bool is_whitespace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_word(char32_t c) {
  const auto found = category(c);
  if (is_letter(c) || is_mark(c) || found == UTF8PROC_CATEGORY_ND || found == UTF8PROC_CATEGORY_NL ||
      found == UTF8PROC_CATEGORY_PC || (found == UTF8PROC_CATEGORY_CN && is_number(c)))
    return true;
  const bool joins = c == 0x200C || c == 0x200D;
  const bool enclosed_letter = (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
                               (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  return joins || enclosed_letter;
}

void append_lowercase(std::string& out, char32_t character) {
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(character))));
  // U+0130 is the one character whose lower case is two: i and a dot above.
  if (character == 0x130) append_utf8(out, 0x307);
}

std::string normalize(std::string_view text, NormalForm form) {
  if (is_unchanged(text, form)) return std::string(text);
  const utf8proc_option_t options = options_of(form);
  const auto ascii = [&](std::size_t i) { return static_cast<unsigned char>(text[i]) < 0x80; };
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> buffer;
  for (std::size_t at = 0; at < text.size();) {
    // An ASCII character that another follows is final; one before other characters may take a mark.
    std::size_t plain = at;
    while (plain < text.size() && ascii(plain) && (plain + 1 == text.size() || ascii(plain + 1))) ++plain;
    out.append(text, at, plain - at);
    if (plain == text.size()) break;
    std::size_t end = plain + 1;
    while (end < text.size() && !ascii(end)) ++end;
    append_normalized(out, text.substr(plain, end - plain), options, buffer);
    at = end;
  }
  return out;
}

}  // namespace mamba2
