#include "mamba2/model/load.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>
#include <string_view>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/log.h"
#include "mamba2/model/held_dtype.h"
#include "mamba2/tensor/quantized.h"

namespace mamba2 {
namespace {

std::string canonical_name(std::string_view name) {
  constexpr std::string_view wrapper = "model.";
  if (name.starts_with("model.backbone.") || name.starts_with("model.lm_head.")) name.remove_prefix(wrapper.size());
  if (name.starts_with("layers.") || name == "embeddings.weight" || name == "norm_f.weight")
    return "backbone." + std::string(name);
  if (name == "backbone.embedding.weight") return "backbone.embeddings.weight";
  return std::string(name);
}

void check_tensor(const TensorInfo& info, const TensorSlot& slot) {
  require(is_floating(info.dtype) || is_quantized(info.dtype),
          "{}: tensor '{}' is {}, expected a floating-point or quantised dtype", info.file, info.name,
          name(info.dtype));
  require(info.shape == slot.shape, "{}: tensor '{}' is {}, expected {} = {} by the config", info.file, info.name,
          to_string(info.shape), to_string(slot.shape), slot.shape_text);
}

/// The extents that ops want: (conv_dim, 1, kernel) is kept as (conv_dim, kernel).
Tensor without_middle_one(const Tensor& tensor) {
  if (tensor.rank() != 3 || tensor.size(1) != 1) return tensor;
  return tensor.reshape({tensor.size(0), tensor.size(2)});
}

void check_slot(const TensorSlot& slot, const CanonicalTensors& tensors) {
  const TensorInfo* info = tensors.find(slot.name);
  require(info != nullptr, "{}: tensor '{}' is missing, expected {} = {} by the config", tensors.file(), slot.name,
          to_string(slot.shape), slot.shape_text);
  check_tensor(*info, slot);
}

void load_slot(const TensorSlot& slot, const Tensor& stored, Backend& backend, std::optional<DType> dtype) {
  if (slot.vector != nullptr)
    *slot.vector = backend.upload(without_middle_one(stored), backend.activation_dtype());
  else
    *slot.matrix = backend.prepare(slot.role, stored, held_dtype(slot, stored.dtype, dtype));
}

/// Whether a prepared tensor is the host's memory that it was made of.
bool used_where_it_lies(const TensorSlot& slot) {
  return slot.matrix != nullptr && *slot.matrix != nullptr && (*slot.matrix)->bytes() == 0;
}

/// Whether slices of columns are whole blocks.
bool cuts_at_blocks(const Tensor& stored, int dimension, const std::vector<ElementRange>& ranges) {
  const std::int64_t block = dimension == stored.rank() - 1 ? block_elements(stored.dtype) : 1;
  return std::ranges::all_of(
      ranges, [&](const ElementRange& range) { return range.begin % block == 0 && range.count % block == 0; });
}

/// The ranges of a dimension, end to end, in memory of their own.
HostTensor cut(const Tensor& stored, int dimension, const std::vector<ElementRange>& ranges) {
  std::int64_t extents[Shape::max_rank] = {}, all = 0;
  for (const ElementRange& range : ranges) all += range.count;
  for (int i = 0; i < stored.rank(); ++i) extents[i] = i == dimension ? all : stored.size(i);
  HostTensor made(stored.dtype, Shape(std::span(extents, static_cast<std::size_t>(stored.rank()))));
  std::int64_t done = 0;
  for (const ElementRange& range : ranges) {
    convert(stored.slice(dimension, range.begin, range.count), made.view().slice(dimension, done, range.count));
    done += range.count;
  }
  return made;
}

/// Loads what a rank holds of a tensor; slot is the rank's own, whole its row in the table of the whole model.
void load_part(const TensorSlot& slot, const TensorSlot& whole, const Tensor& stored, const Split& split, int rank,
               ModelWeights& weights, Backend& backend, std::optional<DType> dtype) {
  const int dimension = split_dimension(whole.split);
  const std::vector<ElementRange> ranges = split.ranges(whole.split, stored.size(dimension), rank);
  if (ranges.empty()) return;
  if (ranges.size() == 1 && ranges.front().count == stored.size(dimension))
    return load_slot(slot, stored, backend, dtype);
  if (ranges.size() == 1 && dimension == 0)
    return load_slot(slot, stored.slice(0, ranges.front().begin, ranges.front().count), backend, dtype);
  if (cuts_at_blocks(stored, dimension, ranges)) {
    weights.cut.push_back(cut(stored, dimension, ranges));
    load_slot(slot, weights.cut.back(), backend, dtype);
  } else {
    const HostTensor widened(DType::f32, stored.shape);
    convert(stored, widened);
    weights.cut.push_back(cut(widened, dimension, ranges));
    const DType again = can_quantize(stored.dtype) ? stored.dtype : DType::q8_0;
    load_slot(slot, weights.cut.back(), backend, dtype ? dtype : again);
  }
  if (!used_where_it_lies(slot)) weights.cut.pop_back();
}

/// Before the table is made, whose size is the config's to say.
void check_layer_count(const Mamba2Config& config, const CanonicalTensors& tensors) {
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string name = fmt::format("backbone.layers.{}.norm.weight", i);
    require(tensors.find(name) != nullptr, "{}: tensor '{}' is missing, expected {} layers by the config",
            tensors.file(), name, config.num_hidden_layers);
  }
}

/// A bias that the config does not know would be left out of every sum: that is no warning's matter.
void check_unexpected(const std::vector<TensorSlot>& table, const CanonicalTensors& tensors) {
  std::set<std::string_view> known;
  for (const TensorSlot& slot : table) known.insert(slot.name);
  std::string unknown;
  std::size_t others = 0;
  for (const auto& [canonical, info] : tensors.all()) {
    if (!canonical.starts_with("backbone.") || known.count(canonical) != 0 || canonical.ends_with("inv_freq")) continue;
    require(!canonical.ends_with(".bias"),
            "{}: tensor '{}' is there though the config says that there is no such bias (use_bias, use_conv_bias, ...)",
            info->file, info->name);
    if (unknown.empty())
      unknown = info->name;
    else
      ++others;
  }
  if (!unknown.empty())
    log_warning("{}: tensor '{}'{} is not part of the model that the config describes", tensors.file(), unknown,
                others == 0 ? "" : fmt::format(" (and {} more)", others));
}

bool same_values(const Tensor& a, const Tensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

constexpr const char* embeddings_name = "backbone.embeddings.weight";
constexpr const char* lm_head_name = "lm_head.weight";

bool has_own_lm_head(const Mamba2Config& config, const CanonicalTensors& tensors) {
  if (tensors.find(lm_head_name) == nullptr) return false;
  if (!config.tie_word_embeddings || tensors.find(embeddings_name) == nullptr) return true;
  return !same_values(tensors.read(lm_head_name), tensors.read(embeddings_name));
}

}  // namespace

CanonicalTensors::CanonicalTensors(const TensorSource& source) : source_(source) {
  for (const TensorInfo& info : source.tensors()) {
    const auto [at, added] = by_name_.emplace(canonical_name(info.name), &info);
    require(added, "{}: tensors '{}' and '{}' are the same weight", info.file, at->second->name, info.name);
  }
}

const TensorInfo* CanonicalTensors::find(const std::string& canonical) const {
  const auto found = by_name_.find(canonical);
  return found == by_name_.end() ? nullptr : found->second;
}

std::string_view CanonicalTensors::file() const {
  return by_name_.empty() ? "the checkpoint" : by_name_.begin()->second->file;
}

Tensor CanonicalTensors::read(const std::string& canonical) const {
  return source_.read(by_name_.at(canonical)->name);
}

std::span<const std::byte> CanonicalTensors::mapped(const std::string& canonical) const {
  return source_.mapped(by_name_.at(canonical)->name);
}

void adjust_to_tensors(Mamba2Config& config, const CanonicalTensors& tensors) {
  if (config.has_attention() && config.attention_conv_kernel > 0) {
    const std::string layer = fmt::format("backbone.layers.{}.mixer.", config.attention_layers_idx.front());
    config.attention_conv_bias = tensors.find(layer + "conv1d.bias") != nullptr;
  }
  if (config.has_mlp()) {
    const TensorInfo* fc2 = tensors.find("backbone.layers.0.mlp.fc2.weight");
    if (fc2 != nullptr && fc2->shape.rank() == 2 && fc2->shape[1] > 0 && fc2->shape[1] != config.padded_mlp_size()) {
      config.mlp_intermediate_size = fc2->shape[1];
      config.mlp_padding_size = 1;
    }
  }
  // The fork's class ties whatever its config says, so its files may say untied and yet hold no head.
  if (config.dialect == Dialect::fork && tensors.find(lm_head_name) == nullptr) config.tie_word_embeddings = true;
  if (has_own_lm_head(config, tensors)) config.tie_word_embeddings = false;
}

namespace {

struct ClassifierNames {
  const char* dense;  // nullptr: no such layer
  const char* out_proj;
};

/// The fork's head, then plain linear ones as they are met elsewhere.
constexpr ClassifierNames classifier_names[] = {
    {"classification_head.dense", "classification_head.out_proj"}, {nullptr, "score"}, {nullptr, "classifier"}};

/// Rows for the heads that the file holds.
void add_heads(std::vector<TensorSlot>& table, const Mamba2Config& config, const CanonicalTensors& tensors,
               ModelWeights& weights) {
  auto matrix = [&](const std::string& name, const Shape& shape, const char* text, Matrix& to) {
    table.push_back({.name = name, .shape = shape, .shape_text = text, .matrix = &to});
  };
  auto vector = [&](const std::string& name, const Shape& shape, const char* text, DeviceTensor& to) {
    table.push_back({.name = name, .shape = shape, .shape_text = text, .vector = &to});
  };
  if (!config.tie_word_embeddings && tensors.find(lm_head_name) != nullptr)
    matrix(lm_head_name, {config.vocab_size, config.hidden_size}, "(vocab_size, hidden_size)", weights.lm_head);
  for (const auto& [dense, out_proj] : classifier_names) {
    const std::string weight = fmt::format("{}.weight", out_proj), bias = fmt::format("{}.bias", out_proj);
    if (tensors.find(weight) == nullptr) continue;
    ClassifierWeights& head = weights.classifier;
    if (dense != nullptr) {
      matrix(fmt::format("{}.weight", dense), {config.hidden_size, config.hidden_size}, "(hidden_size, hidden_size)",
             head.dense);
      vector(fmt::format("{}.bias", dense), {config.hidden_size}, "hidden_size", head.dense_bias);
    }
    matrix(weight, {config.num_labels, config.hidden_size}, "(num_labels, hidden_size)", head.out_proj);
    if (tensors.find(bias) != nullptr) vector(bias, {config.num_labels}, "num_labels", head.out_proj_bias);
    return;
  }
}

/// The table with the heads that the file holds.
std::vector<TensorSlot> table_of(const Mamba2Config& config, const CanonicalTensors& tensors, ModelWeights& weights) {
  std::vector<TensorSlot> table = tensor_table(config, weights);
  add_heads(table, config, tensors, weights);
  if (config.tie_word_embeddings)
    for (TensorSlot& slot : table)
      if (slot.role == WeightRole::embedding) slot.role = WeightRole::embedding_and_linear;
  return table;
}

}  // namespace

std::vector<ModelWeights> load_weights(const Mamba2Config& config, const Split& split, const CanonicalTensors& tensors,
                                       std::span<Backend* const> ranks, std::optional<DType> dtype) {
  check_layer_count(config, tensors);
  ModelWeights unused;
  const std::vector<TensorSlot> table = table_of(config, tensors, unused);
  for (const TensorSlot& slot : table) check_slot(slot, tensors);
  check_unexpected(table, tensors);
  const auto start = std::chrono::steady_clock::now();
  std::vector<ModelWeights> weights(ranks.size());
  std::vector<std::vector<TensorSlot>> parts;
  for (std::size_t r = 0; r < ranks.size(); ++r)
    parts.push_back(table_of(split.part(static_cast<int>(r)).config, tensors, weights[r]));
  for (std::size_t i = 0; i < table.size(); ++i) {
    const TensorSlot& whole = table[i];
    if (i + 1 < table.size()) read_ahead(tensors.mapped(table[i + 1].name));
    const Tensor stored = tensors.read(whole.name);
    bool used = false;
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      load_part(parts[r][i], whole, stored, split, static_cast<int>(r), weights[r], *ranks[r], dtype);
      used = used || used_where_it_lies(parts[r][i]);
    }
    if (!used) release_pages(tensors.mapped(whole.name));
  }
  log_info("{}: weights made ready as {} in {:.2f} s", tensors.file(), dtype ? name(*dtype) : "they are stored",
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  if (config.D_has_head_dim)
    for (ModelWeights& part : weights)
      for (LayerWeights& layer : part.layers)
        if (!layer.mixer.D.view.empty())
          layer.mixer.D.view =
              layer.mixer.D.view.reshape({layer.mixer.D.view.size(0) / config.head_dim, config.head_dim});
  return weights;
}

}  // namespace mamba2
