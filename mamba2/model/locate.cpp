#include "mamba2/model/locate.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/gguf_metadata.h"
#include "mamba2/hub/hub.h"

namespace mamba2 {
namespace {

std::string find_config(const std::string& folder) {
  for (const char* name : {"config.json", "params.json"})
    if (std::string path = join_path(folder, name); file_exists(path)) return path;
  fail("{}: holds neither config.json nor params.json", printable(folder, 4096));
}

}  // namespace

Mamba2Config ModelFiles::read_config() const {
  constexpr std::uint64_t largest_config = 16U << 20;
  if (is_gguf_file(config_file)) {
    const MappedFile file(config_file);
    return Mamba2Config::from_gguf(GgufMetadata(file.bytes(), config_file));
  }
  return Mamba2Config::from_json(read_json_file(config_file, largest_config), config_file);
}

ModelFiles locate_model(const std::string& path) {
  if (directory_exists(path)) return {path, path, find_config(path)};
  if (file_exists(path)) {
    if (is_gguf_file(path)) return {path, path, path};
    std::string folder = std::filesystem::path(path).parent_path().string();
    if (folder.empty()) folder = ".";
    return {folder, path, find_config(folder)};
  }
  require(looks_like_hub_name(path),
          "{}: is neither a folder nor a file, and no Hub name of the form ORG/NAME[@REVISION] either",
          printable(path, 4096));
  const HubOptions options = hub_options_from_environment();
  const std::string folder = resolve_hub_model(path, options, download_bar(options));
  return {folder, folder, find_config(folder)};
}

}  // namespace mamba2
