// Seeds: tests/data/tokenizers/components/*.model
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/tokenizer.h"

namespace {

/// Text with letters, spaces, a character of each UTF-8 length and bytes that are no UTF-8.
constexpr std::string_view text = "the cat  sat\ton \xC3\xA9\xE6\x97\xA5\xF0\x9F\x99\x82 \xFF<s> ";

}  // namespace

/// Any bytes are a SentencePiece model that is read or refused with an Error; one that is read encodes and decodes.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = mamba2::Tokenizer::from_bytes(bytes, "fuzz");
    const auto ids = tokenizer->encode(text, mamba2::SpecialTokens::include);
    (void)tokenizer->decode(ids, mamba2::SpecialTokens::omit);
  } catch (const mamba2::Error&) {
    return 0;
  }
  return 0;
}
