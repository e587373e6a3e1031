#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "mamba2/base/error.h"
#include "mamba2/checkpoint/safetensors.h"

/// A header is refused with an Error, or its tensors tile the data behind it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span file(reinterpret_cast<const std::byte*>(data), size);
  try {
    const auto tensors = mamba2::parse_safetensors(file, "input");
    std::size_t end = tensors.empty() ? size : tensors.front().begin;
    for (const auto& tensor : tensors) {
      const auto elements = static_cast<std::size_t>(tensor.shape.elements());
      if (tensor.begin != end || tensor.end - tensor.begin != elements * element_size(tensor.dtype)) std::abort();
      end = tensor.end;
    }
    if (end != size) std::abort();
  } catch (const mamba2::Error& error) {
    const std::string_view message = error.what();
    if (!message.starts_with("input") || message.find('\n') != std::string_view::npos) std::abort();
  }
  return 0;
}
