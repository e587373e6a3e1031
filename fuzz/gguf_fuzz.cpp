#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "mamba2/base/error.h"
#include "mamba2/base/gguf_metadata.h"
#include "mamba2/checkpoint/gguf.h"
#include "mamba2/model/config.h"
#include "mamba2/tokenizer/tokenizer.h"

// Seeds: tests/data/gguf/*.gguf

namespace {

/// Does what may throw an Error about the input; its message is one line that names the file.
template <class Act>
void attempt(Act&& act) {
  try {
    act();
  } catch (const mamba2::Error& error) {
    const std::string_view message = error.what();
    if (!message.starts_with("input") || message.find('\n') != std::string_view::npos) std::abort();
  }
}

void check_tensors(std::span<const std::byte> file, const mamba2::GgufMetadata& metadata) {
  std::size_t end = 0;
  for (const auto& tensor : mamba2::parse_gguf_tensors(file, metadata)) {
    const std::size_t bytes = mamba2::bytes_for(tensor.dtype, tensor.shape.elements());
    if (tensor.end - tensor.begin != bytes || tensor.end > file.size()) std::abort();
    if (tensor.begin < end && bytes != 0) std::abort();
    if (bytes != 0) end = tensor.end;
  }
}

void encode_and_decode(std::string_view file) {
  const auto tokenizer = mamba2::Tokenizer::from_bytes(file, "input");
  const auto ids = tokenizer->encode("A b\xC3\xA9 12\n", mamba2::SpecialTokens::include);
  tokenizer->decode(ids, mamba2::SpecialTokens::include);
}

}  // namespace

/// Metadata, tensors, config and tokenizer are read or refused with an Error; tensors lie inside the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span file(reinterpret_cast<const std::byte*>(data), size);
  attempt([&] {
    const mamba2::GgufMetadata metadata(file, "input");
    for (const std::string& key : metadata.keys()) {
      if (!metadata.encoded(key)) std::abort();
      attempt([&] { metadata.texts(key); });
      attempt([&] { metadata.integers(key); });
      attempt([&] { metadata.number(key); });
    }
    attempt([&] { check_tensors(file, metadata); });
    attempt([&] { mamba2::Mamba2Config::from_gguf(metadata); });
    attempt([&] { encode_and_decode({reinterpret_cast<const char*>(data), size}); });
  });
  return 0;
}
