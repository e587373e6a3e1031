// Layers of a decode step as one kernel takes them.
#include "mamba2/cuda/run_layers.h"

#include <algorithm>
#include <limits>

namespace mamba2::cuda {
namespace {

constexpr std::uintptr_t alignment = 16;  // bytes, of what is copied or read by vectors

bool aligned(const Tensor& tensor) {
  return reinterpret_cast<std::uintptr_t>(tensor.data) % alignment == 0;
}

/// Rows of f32, or a state, without gaps.
bool dense(const Tensor& tensor) {
  return tensor.contiguous() && aligned(tensor);
}

bool is_bf16(const Tensor& matrix) {
  return matrix.dtype == DType::bf16 && dense(matrix);
}

/// One token of each sequence.
bool decodes(const mamba2::Batch& batch) {
  return batch.tokens == batch.sequences && batch.longest == 1 && batch.tokens >= 1 && batch.tokens <= decode_most_rows;
}

/// A mixer of the kernel's kind, whatever its sizes.
bool is_taken(const mamba2::Mixer& op) {
  const std::int64_t inner = op.ssm_state.size(1) * op.ssm_state.size(2);
  const bool state = op.ssm_state.dtype == DType::f32 || op.ssm_state.dtype == DType::bf16;
  return decodes(op.batch) && op.pending.since.empty() && state && op.ssm_state.size(2) == decode_head_dim &&
         op.n_groups == 1 && op.act == mamba2::Activation::silu && op.conv_weight.size(1) == decode_conv_kernel &&
         op.D.rank() == 1 && !op.norm_weight.empty() && op.norm_group_size == inner &&
         op.order == GateOrder::gate_first && op.out.size(1) == inner && dense(op.ssm_state) && dense(op.conv_state) &&
         dense(op.conv_weight) && op.D.contiguous() && op.A_log.contiguous() && op.dt_bias.contiguous() &&
         dense(op.norm_weight) && (op.conv_bias.empty() || op.conv_bias.contiguous());
}

/// That a layer's ops hand to each other what they should, and leave out what the kernel knows nothing of.
bool is_taken(const MixerLayer& layer, const Tensor& hidden) {
  return same_place(layer.norm.x, hidden) && same_place(layer.out_proj.add, hidden) &&
         same_place(layer.out_proj.out, hidden) && hands_on(layer) && layer.in_proj.bias.empty() &&
         layer.in_proj.add.empty() && layer.out_proj.bias.empty() && dense(layer.norm.weight) && is_taken(layer.mixer);
}

/// What the kernel has one of for all layers.
bool alike(const MixerLayer& one, const MixerLayer& first, std::int64_t index) {
  const mamba2::Mixer &a = one.mixer, &b = first.mixer;
  return one.norm.eps == first.norm.eps && a.norm_eps == b.norm_eps && a.limit == b.limit &&
         a.ssm_state.shape == b.ssm_state.shape && a.ssm_state.dtype == b.ssm_state.dtype &&
         a.conv_state.shape == b.conv_state.shape && a.rounding == b.rounding && a.layer == b.layer + index &&
         same_place(a.batch.slots, b.batch.slots) && same_place(a.batch.positions, b.batch.positions);
}

DecodeLayer pointers_of(const MixerLayer& layer, MatrixOf matrix_of) {
  const mamba2::Mixer& mixer = layer.mixer;
  return {.in_proj = matrix_of(*layer.in_proj.weight).data,
          .out_proj = matrix_of(*layer.out_proj.weight).data,
          .norm_weight = layer.norm.weight.as<float>(),
          .gated_norm_weight = mixer.norm_weight.as<float>(),
          .conv_weight = mixer.conv_weight.as<float>(),
          .conv_bias = mixer.conv_bias.empty() ? nullptr : mixer.conv_bias.as<float>(),
          .dt_bias = mixer.dt_bias.as<float>(),
          .A_log = mixer.A_log.as<float>(),
          .D = mixer.D.as<float>(),
          .conv_state = mixer.conv_state.as<float>(),
          .ssm_state = mixer.ssm_state.data};
}

}  // namespace

bool same_place(const Tensor& one, const Tensor& other) {
  return one.data == other.data && one.shape == other.shape && one.strides == other.strides;
}

bool hands_on(const MixerLayer& layer) {
  return same_place(layer.in_proj.x, layer.norm.out) && same_place(layer.mixer.projected, layer.in_proj.out) &&
         same_place(layer.out_proj.x, layer.mixer.out);
}

bool describe_layers(const mamba2::MixerLayers& op, MatrixOf matrix_of, DecodeLayers& to) {
  if (op.layers.empty() || std::ssize(op.layers) > decode_most_layers) return false;
  const MixerLayer& first = op.layers.front();
  const mamba2::Mixer& mixer = first.mixer;
  const Tensor& hidden = first.norm.x;
  constexpr std::int64_t most = std::numeric_limits<int>::max();
  if (!decodes(mixer.batch) || !aligned(hidden) || hidden.stride(0) % 4 != 0 || hidden.size(1) > most ||
      mixer.ssm_state.size(1) > most / decode_head_dim || mixer.ssm_state.size(3) > most)
    return false;
  for (std::size_t i = 0; i < op.layers.size(); ++i) {
    const MixerLayer& layer = op.layers[i];
    if (!is_taken(layer, hidden) || !alike(layer, first, static_cast<std::int64_t>(i)) ||
        !is_bf16(matrix_of(*layer.in_proj.weight)) || !is_bf16(matrix_of(*layer.out_proj.weight)))
      return false;
    to.layer[i] = pointers_of(layer, matrix_of);
  }
  to.shape = {.hidden = static_cast<int>(hidden.size(1)),
              .heads = static_cast<int>(mixer.ssm_state.size(1)),
              .state_size = static_cast<int>(mixer.ssm_state.size(3)),
              .layers = static_cast<int>(op.layers.size()),
              .rows = static_cast<int>(mixer.batch.tokens),
              .state_element = static_cast<int>(element_size(mixer.ssm_state.dtype))};
  to.norm_eps = static_cast<float>(first.norm.eps);
  to.gated_norm_eps = static_cast<float>(mixer.norm_eps);
  to.dt_min = static_cast<float>(mixer.limit.min);
  to.dt_max = static_cast<float>(mixer.limit.max);
  const bool by_chance = mixer.rounding == StateRounding::stochastic && mixer.ssm_state.dtype != DType::f32;
  to.positions = by_chance ? mixer.batch.positions.as<std::int32_t>() : nullptr;
  to.first_layer = static_cast<unsigned>(mixer.layer);
  to.slots = mixer.batch.slots.as<std::int32_t>();
  to.hidden = {hidden.data, hidden.stride(0)};
  return true;
}

bool decode_layers_pays(const DecodeShape& shape) {
  // An H200, whole steps, three kernels a layer and one for all: hidden_size 768, 1 / 2 / 4 rows 0.37 / 0.39 / 0.43 ms
  // and 0.24 / 0.29 / 0.36; hidden_size 1024, 1 / 2 rows 0.90 / 0.94 and 0.59 / 0.66, 4 rows no gain.  At 2560 a layer
  // is bound by its weights either way.
  constexpr int narrow = 768, widest = 1024;
  return shape.hidden <= narrow ? shape.rows <= 4 : shape.hidden <= widest && shape.rows <= 2;
}

}  // namespace mamba2::cuda
