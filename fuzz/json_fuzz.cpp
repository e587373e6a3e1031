// Seeds: tests/data/golden/*/config.json tests/data/golden/*/params.json models/classics-5m/*config.json

#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "mamba2/base/error.h"
#include "mamba2/base/json.h"

/// Any bytes give a value or an Error of one line, and nothing else.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    mamba2::parse_json({reinterpret_cast<const char*>(data), size}, "input.json");
  } catch (const mamba2::Error& error) {
    const std::string_view message = error.what();
    if (!message.starts_with("input.json") || message.find('\n') != std::string_view::npos) std::abort();
  }
  return 0;
}
