#include "mamba2/model/load.h"

#include <chrono>
#include <cstring>
#include <set>
#include <string_view>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/log.h"
#include "mamba2/model/held_dtype.h"

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

void load_slot(const TensorSlot& slot, const CanonicalTensors& tensors, Backend& backend, std::optional<DType> dtype) {
  const Tensor stored = tensors.read(slot.name);
  if (slot.vector != nullptr)
    *slot.vector = backend.upload(without_middle_one(stored), backend.activation_dtype());
  else
    *slot.matrix = backend.prepare(slot.role, stored, held_dtype(slot, stored.dtype, dtype));
  const bool used_where_it_lies = slot.vector == nullptr && (*slot.matrix)->bytes() == 0;
  if (!used_where_it_lies) release_pages(tensors.mapped(slot.name));
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

}  // namespace

ModelWeights load_weights(const Mamba2Config& config, const CanonicalTensors& tensors, Backend& backend,
                          std::optional<DType> dtype) {
  check_layer_count(config, tensors);
  ModelWeights weights;
  std::vector<TensorSlot> table = tensor_table(config, weights);
  add_heads(table, config, tensors, weights);
  for (const TensorSlot& slot : table) check_slot(slot, tensors);
  check_unexpected(table, tensors);
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < table.size(); ++i) {
    TensorSlot& slot = table[i];
    if (slot.role == WeightRole::embedding && config.tie_word_embeddings) slot.role = WeightRole::embedding_and_linear;
    if (i + 1 < table.size()) read_ahead(tensors.mapped(table[i + 1].name));
    load_slot(slot, tensors, backend, dtype);
  }
  log_info("{}: weights made ready as {} in {:.2f} s", tensors.file(), dtype ? name(*dtype) : "they are stored",
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  if (config.D_has_head_dim)
    for (LayerWeights& layer : weights.layers)
      if (!layer.mixer.D.view.empty())
        layer.mixer.D.view = layer.mixer.D.view.reshape({config.num_heads, config.head_dim});
  return weights;
}

}  // namespace mamba2
