#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "mamba2/base/error.h"
#include "mamba2/checkpoint/sharded.h"

/// An index is refused with an Error, or names files that lie beside it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto map = mamba2::parse_weight_map({reinterpret_cast<const char*>(data), size}, "input");
    for (const auto& [file, tensors] : map)
      if (file.empty() || file.find('/') != std::string::npos || file == ".." || tensors.empty()) std::abort();
  } catch (const mamba2::Error& error) {
    const std::string_view message = error.what();
    if (!message.starts_with("input") || message.find('\n') != std::string_view::npos) std::abort();
  }
  return 0;
}
