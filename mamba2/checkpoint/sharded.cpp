#include "mamba2/checkpoint/sharded.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/log.h"
#include "mamba2/checkpoint/json_visitor.h"

namespace mamba2 {
namespace {

/// Room for max_tensors names and file names.
constexpr std::size_t max_index_bytes = 64U << 20;
/// Four times what the largest published models are cut into.
constexpr std::size_t max_shards = 4096;

bool is_plain_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= 255 && printable(name, 255) == name &&
         name.find_first_of("/\\") == std::string_view::npos;
}

/// Reads 'weight_map' and walks over whatever else the index holds.
class IndexReader : public JsonVisitor {
 public:
  explicit IndexReader(std::string_view source) : JsonVisitor(source) {}

  WeightMap take() {
    require(has_map_, "{}: has no field 'weight_map'", source());
    require(!map_.empty(), "{}: field 'weight_map' is empty", source());
    return std::move(map_);
  }

  void null() override { require_elsewhere("null"); }
  void boolean() override { require_elsewhere("a boolean"); }
  void unsigned_integer(std::uint64_t) override { require_elsewhere("a number"); }
  void negative_integer() override { require_elsewhere("a number"); }
  void real() override { require_elsewhere("a number"); }

  void string(std::string_view file) override {
    if (!in_map_) {
      require_elsewhere("a string");
      return;
    }
    require(is_plain_name(file), "{}: tensor '{}' is said to lie in '{}', expected the name of a file beside the index",
            source(), printable(tensor_), printable(file));
    auto shard = map_.find(std::string(file));
    if (shard == map_.end()) {
      require(map_.size() < max_shards, "{}: names more than {} files", source(), max_shards);
      shard = map_.emplace(file, std::vector<std::string>()).first;
    }
    shard->second.push_back(std::move(tensor_));
  }

  void start_object() override {
    if (depth_ == 1 && is_map_) {
      in_map_ = true;
    } else if (depth_ > 0) {
      require_elsewhere("an object");
    }
    ++depth_;
  }

  void key(std::string_view key) override {
    if (in_map_) {
      name_bytes_ += key.size();
      require(++tensors_ <= max_tensors && name_bytes_ <= max_name_bytes,
              "{}: names more than {} tensors or takes more than {} bytes for their names", source(), max_tensors,
              max_name_bytes);
      tensor_ = key;
    } else if (depth_ == 1) {
      is_map_ = key == "weight_map";
      if (is_map_) require(!std::exchange(has_map_, true), "{}: duplicate key 'weight_map'", source());
    }
  }

  void end_object() override {
    in_map_ = false;
    --depth_;
  }

  void start_array() override {
    require_elsewhere("an array");
    ++depth_;
  }

  void end_array() override { --depth_; }

 protected:
  std::string expected() const override {
    if (in_map_) return fmt::format("tensor '{}': expected a file's name", printable(tensor_));
    return depth_ == 0 ? "expected an object" : "field 'weight_map': expected an object";
  }

 private:
  void require_elsewhere(std::string_view what) const {
    if (in_map_ || depth_ == 0 || (depth_ == 1 && is_map_)) unexpected(what);
  }

  int depth_ = 0;
  bool is_map_ = false;  // the key at depth 1 is weight_map
  bool in_map_ = false, has_map_ = false;
  std::size_t tensors_ = 0, name_bytes_ = 0;
  std::string tensor_;
  WeightMap map_;
};

WeightMap read_weight_map(const std::string& path) {
  const MappedFile file(path);
  require(file.size() <= max_index_bytes, "{}: is {} bytes, expected at most {}", path, file.size(), max_index_bytes);
  return parse_weight_map(file.text(), path);
}

using Shards = std::vector<std::unique_ptr<TensorSource>>;

Shards open_shards(const WeightMap& names, const std::string& index) {
  const std::string folder = std::filesystem::path(index).parent_path().string();
  Shards shards;
  std::size_t tensors = 0;
  for (const auto& [file, ignored] : names) {
    const std::string path = join_path(folder, file);
    require(file_exists(path), "{}: is missing, expected by {}", path, index);
    shards.push_back(open_tensor_file(path));
    tensors += shards.back()->tensors().size();
    require(tensors <= max_tensors, "{}: its files hold more than {} tensors", index, max_tensors);
    require(shards.back()->format() == shards.front()->format(), "{}: is {}, expected {} as the shards before it", path,
            shards.back()->format(), shards.front()->format());
  }
  return shards;
}

/// The tensors that the index places in one shard, in the shard's own order.
void select(const TensorSource& shard, std::vector<std::string> wanted, const std::string& file,
            const std::string& index, std::vector<TensorInfo>& selected) {
  std::sort(wanted.begin(), wanted.end());
  const auto twice = std::adjacent_find(wanted.begin(), wanted.end());
  if (twice != wanted.end()) fail("{}: duplicate key '{}'", index, printable(*twice));
  for (const std::string& name : wanted)
    require(shard.find(name) != nullptr, "{}: places tensor '{}' in '{}', which does not hold it", index,
            printable(name), file);
  for (const TensorInfo& tensor : shard.tensors()) {
    if (std::binary_search(wanted.begin(), wanted.end(), tensor.name))
      selected.push_back(tensor);
    else
      log_debug("{}: tensor '{}' is not in the index", tensor.file, tensor.name);
  }
}

class ShardedTensors : public TensorSource {
 public:
  ShardedTensors(const std::string& index, Shards shards, std::vector<TensorInfo> tensors)
      : TensorSource(index, std::move(tensors)), shards_(std::move(shards)) {
    for (const auto& shard : shards_)
      if (!shard->tensors().empty()) shard_of_[shard->tensors().front().file] = shard.get();
  }

  std::string_view format() const override { return shards_.front()->format(); }

 protected:
  Tensor read_at(std::size_t index) const override {
    const TensorInfo& tensor = tensors()[index];
    return shard_of_.at(tensor.file)->read(tensor.name);
  }
  std::span<const std::byte> mapped_at(std::size_t index) const override {
    const TensorInfo& tensor = tensors()[index];
    return shard_of_.at(tensor.file)->mapped(tensor.name);
  }

 private:
  Shards shards_;
  std::map<std::string_view, const TensorSource*> shard_of_;  // by the shard's path
};

}  // namespace

WeightMap parse_weight_map(std::string_view json, std::string_view source) {
  IndexReader reader(source);
  visit_json(json, reader);
  return reader.take();
}

std::unique_ptr<TensorSource> open_sharded(const std::string& index) {
  const WeightMap names = read_weight_map(index);
  Shards shards = open_shards(names, index);
  std::vector<TensorInfo> tensors;
  auto shard = shards.begin();
  for (const auto& [file, wanted] : names) select(**shard++, wanted, file, index, tensors);
  return std::make_unique<ShardedTensors>(index, std::move(shards), std::move(tensors));
}

}  // namespace mamba2
