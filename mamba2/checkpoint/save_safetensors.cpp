#include "mamba2/checkpoint/save_safetensors.h"

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/json.h"
#include "mamba2/base/log.h"

namespace mamba2 {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view single_name = "model.safetensors", index_name = "model.safetensors.index.json";

/// In the order given, a new shard where the next tensor would make one too large.
std::vector<std::vector<TensorSpec>> cut(const std::vector<TensorSpec>& tensors, std::uint64_t max_shard_bytes) {
  std::vector<std::vector<TensorSpec>> shards(1);
  std::uint64_t bytes = 0;
  for (const TensorSpec& tensor : tensors) {
    if (!shards.back().empty() && bytes + tensor.bytes() > max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += tensor.bytes();
    shards.back().push_back(tensor);
  }
  return shards;
}

std::string shard_name(std::size_t i, std::size_t shards) {
  return shards == 1 ? std::string(single_name) : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards);
}

std::string index_of(const std::vector<std::vector<TensorSpec>>& shards) {
  std::uint64_t bytes = 0;
  Json map = Json::object();
  auto& members = map.get_ref<Json::object_t&>();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    for (const TensorSpec& tensor : shards[i]) {
      bytes += tensor.bytes();
      // ordered_json's operator[] looks through all members first; the writer has seen that names are unique.
      members.Json::object_t::Container::emplace_back(tensor.name, shard_name(i, shards.size()));
    }
  }
  return Json{{"metadata", {{"total_size", bytes}}}, {"weight_map", std::move(map)}}.dump(2) + "\n";
}

/// "model-00001-of-00003.safetensors"
bool is_shard_name(std::string name) {
  for (char& c : name)
    if (c >= '0' && c <= '9') c = '#';
  return name == "model-#####-of-#####.safetensors";
}

/// Removes the weights of an earlier save that the new one did not replace.
void remove_others(const std::string& folder, const std::set<std::string>& kept) {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    if (kept.contains(name) || (name != single_name && !is_shard_name(name))) continue;
    log_info("{}: removed, replaced by the new weights", entry.path().string());
    std::error_code ignored;
    fs::remove(entry.path(), ignored);
  }
}

void remove_file(const std::string& path) {
  std::error_code code;
  fs::remove(path, code);
  require(!code, "{}: can't be removed: {}", path, code.message());
}

}  // namespace

void save_safetensors(const std::string& folder, const std::vector<TensorSpec>& tensors, const TensorReader& read,
                      const SafetensorsSaveOptions& options) {
  make_directories(folder);
  const auto shards = cut(tensors, options.max_shard_bytes);
  const bool sharded = shards.size() > 1;
  std::vector<std::unique_ptr<SafetensorsWriter>> writers;
  std::set<std::string> names;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    names.insert(name);
    writers.push_back(std::make_unique<SafetensorsWriter>(join_path(folder, name), shards[i], options.metadata));
    for (const TensorSpec& tensor : writers.back()->tensors()) writers.back()->write(read(tensor));
    writers.back()->finish();
  }
  const std::string index_path = join_path(folder, index_name);
  std::optional<AtomicFile> index;
  if (sharded) {
    names.insert(std::string(index_name));
    index.emplace(index_path);
    index->write(index_of(shards));
    index->sync();
    // Shards of equal names are about to change under an earlier save's index: better none than a mixture of both.
    remove_file(index_path);
  }
  for (const auto& writer : writers) writer->commit();
  if (sharded)
    index->commit();
  else
    remove_file(index_path);  // an earlier save's, whole until now; readers prefer it to a single file
  remove_others(folder, names);
}

}  // namespace mamba2
