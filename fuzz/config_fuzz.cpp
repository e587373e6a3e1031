// Seeds: tests/data/golden/*/config.json tests/data/golden/*/params.json models/classics-5m/config.json

#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "mamba2/base/error.h"
#include "mamba2/base/json.h"
#include "mamba2/model/config.h"
#include "mamba2/model/save.h"

/// Any config gives a model's sizes, which can be saved and multiplied without overflow, or an Error of one line that
/// names the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  mamba2::Mamba2Config config;
  try {
    const mamba2::Json json = mamba2::parse_json({reinterpret_cast<const char*>(data), size}, "config.json");
    config = mamba2::Mamba2Config::from_json(json, "config.json");
  } catch (const mamba2::Error& error) {
    const std::string_view message = error.what();
    if (!message.starts_with("config.json") || message.find('\n') != std::string_view::npos) std::abort();
    return 0;
  }
  if (config.in_proj_size() < 1 || config.attention_qkv_size() < 0 || config.num_heads % config.n_groups != 0)
    std::abort();
  try {
    mamba2::config_to_json(config, mamba2::dialect_to_save(config), "float32");
  } catch (const mamba2::Error&) {
    return 0;
  }
  return 0;
}
