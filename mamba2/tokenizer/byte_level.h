#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace mamba2 {

/// GPT-2's way of writing any byte as a printable character (Radford et al. 2019, section 2.2): printable Latin-1
/// stands for itself, the others for U+0100 and on, in order.
const std::array<std::string, 256>& byte_level_characters();

/// -1 where the character stands for no byte.
int byte_of_byte_level_character(char32_t character);

/// Every byte of text as its character.
std::string to_byte_level(std::string_view text);

/// Calls found(begin, end) for every piece of valid UTF-8 text that GPT-2's pattern
///   ``'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+``
/// matches; together they cover the text.
template <class Found>
void split_gpt2(std::string_view text, const Found& found);

/// Where the piece ends that starts at `from`, which is before the end of text.
std::size_t gpt2_piece_end(std::string_view text, std::size_t from);

template <class Found>
void split_gpt2(std::string_view text, const Found& found) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = gpt2_piece_end(text, at);
    found(at, end);
    at = end;
  }
}

}  // namespace mamba2
