#include "mamba2/hub/model_files.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/json.h"
#include "mamba2/hub/name.h"

namespace mamba2 {
namespace {

constexpr std::array<std::string_view, 5> weight_files = {"model.safetensors", "model.safetensors.index.json",
                                                          "consolidated.safetensors", "pytorch_model.bin",
                                                          "pytorch_model.bin.index.json"};
constexpr std::uint64_t max_index_bytes = 64 << 20;

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

bool is_description_file(std::string_view name) {
  if (name.find('/') != std::string_view::npos) return false;
  return is_one_of(name, {"config.json", "params.json", "generation_config.json", "special_tokens_map.json"}) ||
         is_tokenizer_file(name) || (name.starts_with("tokenizer") && name.ends_with(".json"));
}

bool is_tokenizer_file(std::string_view name) {
  return name == "tokenizer.json" || (name.starts_with("tokenizer.model") && name.find('/') == std::string_view::npos);
}

std::optional<WeightFile> choose_weights(const std::function<bool(const std::string&)>& exists) {
  for (const std::string_view name : weight_files)
    if (exists(std::string(name))) return WeightFile{std::string(name), name.ends_with(".index.json")};
  return std::nullopt;
}

std::vector<std::string> shards_of_index(const std::string& path) {
  const Json index = read_json_file(path, max_index_bytes);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  require(index.is_object() && map != index.end() && map->is_object() && !map->empty(),
          "{}: field 'weight_map' is missing or empty, expected an object of tensor names and files", path);
  std::set<std::string> shards;
  for (const auto& [tensor, file] : map->items()) {
    require(file.is_string(), "{}: weight_map['{}'] is no string, expected a file's name", path, printable(tensor));
    const auto& name = file.get_ref<const std::string&>();
    require(is_safe_file_name(name), "{}: weight_map['{}'] is '{}', expected a file inside the folder", path,
            printable(tensor), printable(name));
    shards.insert(name);
  }
  return {shards.begin(), shards.end()};
}

std::optional<std::string> missing_from_folder(const std::string& folder) {
  const auto exists = [&](const std::string& name) { return file_exists(join_path(folder, name)); };
  if (!exists("config.json") && !exists("params.json")) return "config.json";
  const auto weights = choose_weights(exists);
  if (!weights) return "a file of weights";
  if (!weights->is_index) return std::nullopt;
  const auto shards = shards_of_index(join_path(folder, weights->name));
  const auto absent = std::find_if_not(shards.begin(), shards.end(), exists);
  if (absent == shards.end()) return std::nullopt;
  return *absent;
}

bool folder_has_tokenizer(const std::string& folder) {
  std::error_code code;
  for (std::filesystem::directory_iterator entry(folder, code), end; !code && entry != end; entry.increment(code))
    if (is_tokenizer_file(entry->path().filename().string()) && file_exists(entry->path().string())) return true;
  return false;
}

}  // namespace mamba2
