#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "mamba2/model/config.h"
#include "mamba2/model/device_integers.h"
#include "mamba2/ops/backend.h"

namespace mamba2 {

/// The state of one layer for every slot; tensors that the layer does not need are absent.
struct LayerState {
  DeviceTensor conv_state;  ///< (slots, conv_dim or attention_qkv_size, kernel - 1)
  DeviceTensor ssm_state;   ///< (slots, num_heads, head_dim, state_size)
  DeviceTensor k_cache;     ///< (slots, capacity, num_key_value_heads, attention_head_dim)
  DeviceTensor v_cache;     ///< as k_cache
  DeviceTensor pending_input, pending_B, pending_log_decay;  ///< of PendingInputs; absent until there are any
  StateRounding rounding = StateRounding::nearest;           ///< of ssm_state
  std::int64_t number = 0;  ///< by which chance and turns go: no other layer's, on any rank
};

/// What a model remembers of each of N sequences (transformers' cache_params), one slot a sequence.  Belongs to the
/// backend it was made on and must not outlive it.  A new slot is the state before the first token.  Where the model is
/// split, each rank has a cache of its part, and the first one's holds the others': all do what it is told.
class Mamba2Cache {
 public:
  /// state_dtype of ssm_state; the convolution's state and the keys and values have the activations' dtype.
  Mamba2Cache(const Mamba2Config& config, Backend& backend, std::int64_t slots, DType state_dtype = DType::f32,
              StateRounding rounding = StateRounding::nearest);

  /// Adds the cache of the next rank's part, of as many slots.
  void add_rank(Mamba2Cache cache) { others_.push_back(std::move(cache)); }
  /// A rank's own.
  Mamba2Cache& of_rank(std::size_t rank) { return rank == 0 ? *this : others_[rank - 1]; }

  std::int64_t slots() const { return static_cast<std::int64_t>(lengths_.size()); }
  /// Tokens that slot has seen.
  std::int64_t length(std::int64_t slot) const { return lengths_[static_cast<std::size_t>(slot)]; }
  /// Bytes a sequence costs, keys and values at the present capacity included.
  std::size_t bytes_per_slot() const;

  void reset();
  void reset(std::int64_t slot);
  /// Slot `to` becomes what slot `from` is.
  void copy_slot(std::int64_t from, std::int64_t to);
  /// Slot `to` becomes what a slot of another cache of the same model is, for the cost of copying it.
  void copy_slot(const Mamba2Cache& source, std::int64_t from, std::int64_t to);
  /// New slot i becomes what slot sources[i] was, as beam search needs it; sources may repeat, its length is slots().
  void reorder(std::span<const std::int64_t> sources);
  /// Brings every ssm_state up to date, for whoever wants to read them: a backend may leave what the last tokens
  /// brought beside them (PendingInputs).  What follows can differ by rounding from what it had been without this call.
  void settle();
  /// An independent copy.
  Mamba2Cache clone() const;

  /// Writes conv_state.I, ssm_state.I, k_cache.I, v_cache.I and lengths as safetensors, atomically; settles before.
  /// Throws Error where the model is split, as load() does.
  void save(const std::string& path);
  /// Replaces the contents by a saved file's; throws Error naming the tensor that does not fit this model, and is as
  /// before then.
  void load(const std::string& path);

  // For the forward pass, of one rank alone.
  LayerState& layer(std::int64_t index) { return layers_[static_cast<std::size_t>(index)]; }
  const LayerState& layer(std::int64_t index) const { return layers_[static_cast<std::size_t>(index)]; }
  std::int64_t layers() const { return static_cast<std::int64_t>(layers_.size()); }
  /// Makes room for keys and values of so many tokens in every slot.
  void reserve(std::int64_t tokens);
  /// The next token of these slots leaves its inputs beside the state, where there is room for so many of each.
  void leave_pending(std::span<const std::int32_t> slots, std::int64_t room);
  PendingInputs pending(std::int64_t layer) const;
  /// Brings these slots' states up to date with the tokens whose inputs are pending.
  void settle(std::span<const std::int32_t> slots);
  DType state_dtype() const { return state_dtype_; }
  void advance(std::int64_t slot, std::int64_t tokens) { lengths_[static_cast<std::size_t>(slot)] += tokens; }

 private:
  template <class Visit>
  void for_each_state(Visit&& visit);
  template <class Visit>
  void for_each_tensor(Visit&& visit);
  void require_whole(const char* what) const;
  void make_room(std::int64_t room);
  void upload_since();

  Backend* backend_;
  Mamba2Config config_;
  DType state_dtype_;
  StateRounding rounding_;
  std::vector<LayerState> layers_;
  std::vector<std::int64_t> lengths_;
  std::int64_t capacity_ = 0;        // tokens that k_cache and v_cache hold
  std::vector<Mamba2Cache> others_;  // of the ranks after this one

  static constexpr std::int64_t nothing_pending = -1;
  std::int64_t room_ = 0;            // of pending inputs
  std::vector<std::int64_t> since_;  // the length from which on each slot's tokens were left pending
  DeviceIntegers since_on_device_, settled_slots_, settled_ends_;
  Tensor since_view_;
};

}  // namespace mamba2
