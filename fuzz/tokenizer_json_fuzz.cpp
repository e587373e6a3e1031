// Seeds: tests/data/tokenizers/components/*.json
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/tokenizer.h"

/// Any bytes are a tokenizer.json that is read or refused with an Error; one that is read encodes and decodes.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = mamba2::Tokenizer::from_bytes(bytes, "fuzz");
    const std::string_view text = bytes.substr(0, 256);
    const auto ids = tokenizer->encode(text, mamba2::SpecialTokens::include);
    (void)tokenizer->decode(ids, mamba2::SpecialTokens::omit);
  } catch (const mamba2::Error&) {
    return 0;
  }
  return 0;
}
