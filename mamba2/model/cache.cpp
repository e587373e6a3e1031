#include "mamba2/model/cache.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "mamba2/base/error.h"
#include "mamba2/checkpoint/safetensors_writer.h"
#include "mamba2/checkpoint/tensor_source.h"

namespace mamba2 {
namespace {

/// Keys and values start with room for so many tokens and double from there.
constexpr std::int64_t first_capacity = 256;

constexpr DeviceTensor LayerState::*pending_tensors[] = {&LayerState::pending_input, &LayerState::pending_B,
                                                         &LayerState::pending_log_decay};

LayerState make_layer(const Mamba2Config& c, Backend& backend, std::int64_t layer, std::int64_t slots,
                      DType state_dtype, StateRounding rounding) {
  LayerState state;
  state.rounding = rounding;
  const int rank = backend.communicator() != nullptr ? backend.communicator()->rank() : 0;
  state.number = rank * c.num_hidden_layers + layer;
  const DType dtype = backend.activation_dtype();
  if (!c.is_attention_layer(layer)) {
    state.conv_state = backend.allocate(dtype, {slots, c.conv_dim(), c.conv_kernel - 1});
    state.ssm_state =
        backend.allocate(dtype == DType::f64 ? dtype : state_dtype, {slots, c.num_heads, c.head_dim, c.state_size});
  } else if (c.attention_conv_kernel > 0) {
    state.conv_state = backend.allocate(dtype, {slots, c.attention_qkv_size(), c.attention_conv_kernel - 1});
  }
  return state;
}

}  // namespace

Mamba2Cache::Mamba2Cache(const Mamba2Config& config, Backend& backend, std::int64_t slots, DType state_dtype,
                         StateRounding rounding)
    : backend_(&backend), config_(config), state_dtype_(state_dtype), rounding_(rounding) {
  require(slots >= 1, "a cache of {} sequences was asked for, expected 1 or more", slots);
  lengths_.assign(static_cast<std::size_t>(slots), 0);
  since_.assign(static_cast<std::size_t>(slots), nothing_pending);
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i)
    layers_.push_back(make_layer(config, backend, i, slots, state_dtype, rounding));
}

template <class Visit>
void Mamba2Cache::for_each_state(Visit&& visit) {
  for (LayerState& layer : layers_)
    for (DeviceTensor* tensor : {&layer.conv_state, &layer.ssm_state, &layer.k_cache, &layer.v_cache})
      if (!tensor->view.empty()) visit(*tensor);
}

/// Of states and of what is pending beside them.
template <class Visit>
void Mamba2Cache::for_each_tensor(Visit&& visit) {
  for_each_state(visit);
  for (LayerState& layer : layers_)
    for (const auto member : pending_tensors)
      if (!(layer.*member).view.empty()) visit(layer.*member);
}

std::size_t Mamba2Cache::bytes_per_slot() const {
  std::size_t bytes = 0;
  const_cast<Mamba2Cache*>(this)->for_each_tensor([&](const DeviceTensor& tensor) { bytes += tensor.view.bytes(); });
  bytes /= lengths_.size();
  for (const Mamba2Cache& other : others_) bytes += other.bytes_per_slot();
  return bytes;
}

void Mamba2Cache::reset() {
  for_each_state([&](DeviceTensor& tensor) { backend_->zero(tensor); });
  std::fill(lengths_.begin(), lengths_.end(), 0);
  std::fill(since_.begin(), since_.end(), nothing_pending);
  for (Mamba2Cache& other : others_) other.reset();
}

void Mamba2Cache::reset(std::int64_t slot) {
  require(0 <= slot && slot < slots(), "slot {} is outside the cache's {}", slot, slots());
  for_each_state([&](DeviceTensor& tensor) { backend_->zero(tensor.view.slice(0, slot, 1)); });
  lengths_[static_cast<std::size_t>(slot)] = 0;
  since_[static_cast<std::size_t>(slot)] = nothing_pending;
  for (Mamba2Cache& other : others_) other.reset(slot);
}

void Mamba2Cache::copy_slot(std::int64_t from, std::int64_t to) {
  for (const std::int64_t slot : {from, to})
    require(0 <= slot && slot < slots(), "slot {} is outside the cache's {}", slot, slots());
  if (from == to) return;
  for_each_tensor(
      [&](DeviceTensor& tensor) { backend_->copy(tensor.view.slice(0, from, 1), tensor.view.slice(0, to, 1)); });
  lengths_[static_cast<std::size_t>(to)] = length(from);
  since_[static_cast<std::size_t>(to)] = since_[static_cast<std::size_t>(from)];
  for (Mamba2Cache& other : others_) other.copy_slot(from, to);
}

void Mamba2Cache::copy_slot(const Mamba2Cache& source, std::int64_t from, std::int64_t to) {
  if (&source == this) return copy_slot(from, to);
  require(0 <= from && from < source.slots(), "slot {} is outside the cache's {}", from, source.slots());
  require(0 <= to && to < slots(), "slot {} is outside the cache's {}", to, slots());
  require(layers() == source.layers(), "a cache of {} layers can't take a slot of one of {}", layers(),
          source.layers());
  require(others_.size() == source.others_.size(), "a cache of {} ranks can't take a slot of one of {}",
          others_.size() + 1, source.others_.size() + 1);
  const std::int64_t tokens = source.length(from);
  reserve(tokens);
  const std::int64_t since = source.since_[static_cast<std::size_t>(from)];
  if (since != nothing_pending) make_room(source.room_);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const LayerState& theirs = source.layers_[i];
    const LayerState& ours = layers_[i];
    for (const auto member : {&LayerState::conv_state, &LayerState::ssm_state})
      if (!(theirs.*member).view.empty()) backend_->copy((theirs.*member).view[from], (ours.*member).view[to]);
    for (const auto member : {&LayerState::k_cache, &LayerState::v_cache})
      if (!(theirs.*member).view.empty() && tokens > 0)
        backend_->copy((theirs.*member).view[from].slice(0, 0, tokens), (ours.*member).view[to].slice(0, 0, tokens));
    for (const auto member : pending_tensors)
      if (since != nothing_pending && !(theirs.*member).view.empty())
        backend_->copy((theirs.*member).view[from], (ours.*member).view[to]);
  }
  lengths_[static_cast<std::size_t>(to)] = tokens;
  since_[static_cast<std::size_t>(to)] = since;
  for (std::size_t i = 0; i < others_.size(); ++i) others_[i].copy_slot(source.others_[i], from, to);
}

void Mamba2Cache::reorder(std::span<const std::int64_t> sources) {
  require(static_cast<std::int64_t>(sources.size()) == slots(), "{} sources were given to reorder {} slots",
          sources.size(), slots());
  bool identity = true;
  for (std::int64_t i = 0; i < slots(); ++i) {
    const std::int64_t source = sources[static_cast<std::size_t>(i)];
    require(0 <= source && source < slots(), "slot {} is outside the cache's {}", source, slots());
    identity = identity && source == i;
  }
  if (identity) return;
  for_each_tensor([&](DeviceTensor& tensor) {
    DeviceTensor moved = backend_->allocate(tensor.view.dtype, tensor.view.shape);
    for (std::int64_t i = 0; i < slots(); ++i)
      backend_->copy(tensor.view.slice(0, sources[static_cast<std::size_t>(i)], 1), moved.view.slice(0, i, 1));
    tensor = std::move(moved);
  });
  const std::vector<std::int64_t> old_lengths = lengths_, old_since = since_;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    lengths_[i] = old_lengths[static_cast<std::size_t>(sources[i])];
    since_[i] = old_since[static_cast<std::size_t>(sources[i])];
  }
  for (Mamba2Cache& other : others_) other.reorder(sources);
}

Mamba2Cache Mamba2Cache::clone() const {
  Mamba2Cache copy(config_, *backend_, slots(), state_dtype_, rounding_);
  copy.reserve(capacity_);
  copy.lengths_ = lengths_;
  copy.since_ = since_;
  if (room_ > 0) copy.make_room(room_);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const LayerState& from = layers_[i];
    const LayerState& to = copy.layers_[i];
    for (const auto member :
         {&LayerState::conv_state, &LayerState::ssm_state, &LayerState::k_cache, &LayerState::v_cache})
      if (!(from.*member).view.empty()) backend_->copy(from.*member, to.*member);
    for (const auto member : pending_tensors)
      if (!(from.*member).view.empty()) backend_->copy(from.*member, to.*member);
  }
  for (const Mamba2Cache& other : others_) copy.add_rank(other.clone());
  return copy;
}

void Mamba2Cache::make_room(std::int64_t room) {
  require(room_ == 0 || room == room_, "a cache has room for {} pending inputs, expected {}", room_, room);
  if (room_ == room) return;
  for (LayerState& layer : layers_) {
    const Tensor& state = layer.ssm_state.view;
    if (state.empty()) continue;
    layer.pending_input = backend_->allocate(state.dtype, {slots(), state.size(1), room, state.size(2)});
    layer.pending_B = backend_->allocate(state.dtype, {slots(), config_.n_groups, room, state.size(3)});
    layer.pending_log_decay = backend_->allocate(backend_->activation_dtype(), {slots(), state.size(1), room});
  }
  room_ = room;
}

void Mamba2Cache::leave_pending(std::span<const std::int32_t> slots, std::int64_t room) {
  make_room(room);
  for (const std::int32_t slot : slots) {
    std::int64_t& since = since_[static_cast<std::size_t>(slot)];
    if (since == nothing_pending) since = length(slot);
  }
  upload_since();
}

void Mamba2Cache::upload_since() {
  since_on_device_.values.clear();
  for (const std::int64_t since : since_) since_on_device_.values.push_back(static_cast<std::int32_t>(since));
  since_view_ = since_on_device_.upload(*backend_);
}

PendingInputs Mamba2Cache::pending(std::int64_t layer) const {
  const LayerState& state = this->layer(layer);
  return {state.pending_input, state.pending_B, state.pending_log_decay, since_view_};
}

void Mamba2Cache::settle(std::span<const std::int32_t> slots) {
  settled_slots_.values.clear();
  settled_ends_.values.clear();
  for (const std::int32_t slot : slots) {
    if (since_[static_cast<std::size_t>(slot)] == nothing_pending) continue;
    settled_slots_.values.push_back(slot);
    settled_ends_.values.push_back(static_cast<std::int32_t>(length(slot)));
  }
  if (settled_slots_.values.empty()) return;
  upload_since();
  const Tensor on_device = settled_slots_.upload(*backend_), ends = settled_ends_.upload(*backend_);
  for (std::int64_t i = 0; i < layers(); ++i)
    if (!layer(i).pending_input.view.empty())
      backend_->run(SettleState{.pending = pending(i),
                                .ssm_state = layer(i).ssm_state,
                                .slots = on_device,
                                .ends = ends,
                                .rounding = rounding_,
                                .layer = layer(i).number});
  for (const std::int32_t slot : settled_slots_.values) since_[static_cast<std::size_t>(slot)] = nothing_pending;
}

void Mamba2Cache::settle() {
  std::vector<std::int32_t> all(since_.size());
  std::iota(all.begin(), all.end(), 0);
  settle(all);
  for (Mamba2Cache& other : others_) other.settle();
}

void Mamba2Cache::reserve(std::int64_t tokens) {
  if (!config_.has_attention() || tokens <= capacity_) return;
  const std::int64_t capacity = std::max({tokens, first_capacity, 2 * capacity_});
  const Shape shape{slots(), capacity, config_.num_key_value_heads, config_.attention_head_dim};
  for (const std::int64_t i : config_.attention_layers_idx) {
    LayerState& state = layer(i);
    for (DeviceTensor* cache : {&state.k_cache, &state.v_cache}) {
      DeviceTensor larger = backend_->allocate(backend_->activation_dtype(), shape);
      for (std::int64_t slot = 0; slot < slots() && capacity_ > 0; ++slot)
        backend_->copy(cache->view[slot], larger.view[slot].slice(0, 0, capacity_));
      *cache = std::move(larger);
    }
  }
  capacity_ = capacity;
}

namespace {

struct NamedState {
  const char* name;
  DeviceTensor LayerState::*member;
  bool grows;  // with the tokens: keys and values
};

constexpr NamedState named_states[] = {{"conv_state", &LayerState::conv_state, false},
                                       {"ssm_state", &LayerState::ssm_state, false},
                                       {"k_cache", &LayerState::k_cache, true},
                                       {"v_cache", &LayerState::v_cache, true}};

}  // namespace

void Mamba2Cache::require_whole(const char* what) const {
  require(others_.empty(), "the state of a model that is split over {} ranks can't be {}: each has a part of it",
          others_.size() + 1, what);
}

void Mamba2Cache::save(const std::string& path) {
  require_whole("saved");
  settle();
  std::vector<TensorSpec> specs;
  std::map<std::string, HostTensor> values;
  auto add = [&](const std::string& name, DType dtype, const Shape& shape) -> const Tensor& {
    specs.push_back({name, dtype, shape});
    return values.emplace(name, HostTensor(dtype, shape)).first->second.view();
  };
  for (std::size_t i = 0; i < layers_.size(); ++i)
    for (const NamedState& state : named_states) {
      const Tensor& view = (layers_[i].*state.member).view;
      if (!view.empty()) backend_->download(view, add(fmt::format("{}.{}", state.name, i), view.dtype, view.shape));
    }
  const Tensor& lengths = add("lengths", DType::i64, {slots()});
  std::copy(lengths_.begin(), lengths_.end(), lengths.as<std::int64_t>());
  SafetensorsWriter writer(path, std::move(specs));
  for (const TensorSpec& spec : writer.tensors()) writer.write(values.at(spec.name));
  writer.finish();
  writer.commit();
}

namespace {

/// Tensors of a saved cache, checked as they are asked for.
class SavedCache {
 public:
  explicit SavedCache(const std::string& path) : path_(path), source_(open_tensors(path)) {}

  /// tokens: for keys and values, whose second extent the file may choose; 0 where the tensor is not there.
  std::int64_t tokens(const std::string& name) const {
    const TensorInfo* info = source_->find(name);
    if (info == nullptr) return 0;
    require(info->shape.rank() == 4, "{}: tensor '{}' is {}, expected 4 dimensions", path_, name,
            to_string(info->shape));
    return info->shape[1];
  }

  Tensor read(const std::string& name, DType dtype, const Shape& shape) const {
    const TensorInfo* info = source_->find(name);
    require(info != nullptr, "{}: tensor '{}' is missing", path_, name);
    require(info->dtype == dtype && info->shape == shape, "{}: tensor '{}' is {} {}, expected {} {}", path_, name,
            mamba2::name(info->dtype), to_string(info->shape), mamba2::name(dtype), to_string(shape));
    return source_->read(name);
  }

 private:
  std::string path_;
  std::unique_ptr<TensorSource> source_;
};

constexpr std::int64_t longest_sequence = 2147483647;  // positions are 32-bit

}  // namespace

void Mamba2Cache::load(const std::string& path) {
  require_whole("loaded");
  const SavedCache saved(path);
  const Tensor lengths = saved.read("lengths", DType::i64, {slots()});
  const std::span<const std::int64_t> stored(lengths.as<std::int64_t>(), lengths_.size());
  std::int64_t longest = 0;
  for (const std::int64_t length : stored) {
    require(0 <= length && length <= longest_sequence, "{}: lengths holds {}, expected 0 to {}", path, length,
            longest_sequence);
    longest = std::max(longest, length);
  }

  struct Upload {
    Tensor from;
    std::size_t layer;
    DeviceTensor LayerState::*to;
  };
  std::vector<Upload> uploads;
  for (std::size_t i = 0; i < layers_.size(); ++i)
    for (const NamedState& state : named_states) {
      const std::string name = fmt::format("{}.{}", state.name, i);
      const Tensor& view = (layers_[i].*state.member).view;
      if (!state.grows) {
        if (!view.empty()) uploads.push_back({saved.read(name, view.dtype, view.shape), i, state.member});
        continue;
      }
      if (!config_.is_attention_layer(static_cast<std::int64_t>(i))) continue;
      const std::int64_t tokens = saved.tokens(name);
      require(tokens >= longest, "{}: tensor '{}' holds {} tokens, expected {} by lengths", path, name, tokens,
              longest);
      if (tokens == 0) continue;
      const Shape shape{slots(), tokens, config_.num_key_value_heads, config_.attention_head_dim};
      uploads.push_back({saved.read(name, backend_->activation_dtype(), shape), i, state.member});
    }

  // All is checked: from here on nothing but memory can be missing.
  reserve(longest);
  for (const Upload& upload : uploads) {
    const Tensor& to = (layers_[upload.layer].*upload.to).view;
    if (upload.from.shape == to.shape) {
      backend_->upload(upload.from, to);
      continue;
    }
    for (std::int64_t slot = 0; slot < slots() && longest > 0; ++slot)
      backend_->upload(upload.from[slot].slice(0, 0, longest), to[slot].slice(0, 0, longest));
  }
  std::copy(stored.begin(), stored.end(), lengths_.begin());
  std::fill(since_.begin(), since_.end(), nothing_pending);
}

}  // namespace mamba2
