#pragma once

#include <string>
#include <string_view>

namespace mamba2 {

// Properties of characters, as the tokenizers' regular expressions ask for them.
bool is_letter(char32_t character);       ///< `\p{L}`
bool is_number(char32_t character);       ///< `\p{N}`
bool is_mark(char32_t character);         ///< `\p{M}`
bool is_punctuation(char32_t character);  ///< `\p{P}` and ASCII's symbols
bool is_whitespace(char32_t character);   ///< White_Space
bool is_word(char32_t character);  ///< `\w` of UTS 18, annex C: Alphabetic, `\p{M}`, `\p{Nd}`, `\p{Pc}`, Join_Control

/// Appends the full lower case of a character, without context.
void append_lowercase(std::string& out, char32_t character);

enum class NormalForm { nfc, nfd, nfkc, nfkd };

/// Valid UTF-8 in, its Unicode normal form out (UAX 15).  Linear in the length of the text but for the sorting of the
/// combining marks that follow one base character.
std::string normalize(std::string_view text, NormalForm form);

}  // namespace mamba2
