#include "mamba2/model/layers.h"

#include <cmath>

#include "mamba2/tensor/columns.h"

namespace mamba2 {
namespace {

/// hidden += x W^T + bias.  A rank's W has some of the columns, and the products are summed; a.normed is free by then.
void add_projection(const Tensor& x, const Matrix& weight, const DeviceTensor& bias, const Activations& a,
                    const Batch& batch, Backend& backend) {
  const Tensor hidden = a.hidden.view.slice(0, 0, batch.tokens);
  if (backend.ranks() == 1) {
    backend.run(Linear{.x = x, .weight = weight.get(), .bias = bias, .add = hidden, .out = hidden});
    return;
  }
  const Tensor product = a.normed.view.slice(0, 0, batch.tokens);
  backend.run(Linear{.x = x, .weight = weight.get(), .bias = bias, .add = {}, .out = product});
  backend.run(AddOverRanks{.x = product, .add = hidden, .out = hidden});
}

/// What lies between the projections, for some of a batch's rows.
Mixer mixer_of(std::int64_t layer, const MixerWeights& w, const ModelPart& part, const Activations& a,
               const Mamba2Cache& cache, const MixerPart& of) {
  auto rows = [&](const DeviceTensor& tensor) { return tensor.view.slice(0, of.first_row, of.batch.tokens); };
  const Mamba2Config& c = part.config;
  const LayerState& state = cache.layer(layer);
  return {.projected = rows(a.projected),
          .conv_weight = w.conv1d,
          .conv_bias = w.conv1d_bias,
          .act = c.hidden_act,
          .dt_bias = w.dt_bias,
          .A_log = w.A_log,
          .D = w.D,
          .limit = c.time_step_limit,
          .n_groups = c.n_groups,
          .norm_weight = w.norm,
          .norm_group_size = part.norm_group_size,
          .norm_eps = c.gated_norm_epsilon,
          .norm_first_channel = part.norm_first_channel,
          .square_sums = part.norm_groups > 0 ? rows(a.square_sums) : Tensor(),
          .order = c.gate_order,
          .batch = of.batch,
          .conv_state = state.conv_state,
          .ssm_state = state.ssm_state,
          .rounding = state.rounding,
          .layer = state.number,
          .pending = of.leaves_pending ? cache.pending(layer) : PendingInputs{},
          .xBC = rows(a.xBC),
          .dt = rows(a.dt),
          .y = rows(a.y),
          .out = rows(a.mixed)};
}

/// Figure 6 of Dao and Gu 2024: project, convolve, scan, norm, project back onto the residual stream.
MixerLayer mixer_layer(std::int64_t layer, const LayerWeights& weights, const ModelPart& part, const Activations& a,
                       const Mamba2Cache& cache, const MixerPart& all) {
  auto rows = [&](const DeviceTensor& tensor) { return tensor.view.slice(0, 0, all.batch.tokens); };
  const MixerWeights& w = weights.mixer;
  const Tensor hidden = rows(a.hidden), normed = rows(a.normed), mixed = rows(a.mixed);
  return {
      .norm = {.x = hidden, .weight = weights.norm, .eps = part.config.layer_norm_epsilon, .out = normed},
      .in_proj = {.x = normed, .weight = w.in_proj.get(), .bias = w.in_proj_bias, .add = {}, .out = rows(a.projected)},
      .mixer = mixer_of(layer, w, part, a, cache, all),
      .out_proj = {.x = mixed, .weight = w.out_proj.get(), .bias = w.out_proj_bias, .add = hidden, .out = hidden}};
}

/// A mixer that is not one op with its layer: its rows go through it in parts, or what it adds to the residual stream
/// is summed over ranks.
void forward_mixer(std::int64_t layer, const LayerWeights& weights, const ModelPart& part, const Activations& a,
                   const Mamba2Cache& cache, const Batch& batch, std::span<const MixerPart> mixer_parts,
                   Backend& backend) {
  const MixerWeights& w = weights.mixer;
  const MixerLayer whole = mixer_layer(layer, weights, part, a, cache, {.batch = batch});
  backend.run(whole.norm);
  backend.run(whole.in_proj);
  for (const MixerPart& of : mixer_parts) backend.run(mixer_of(layer, w, part, a, cache, of));
  add_projection(whole.mixer.out, w.out_proj, w.out_proj_bias, a, batch, backend);
}

void forward_attention(const AttentionWeights& w, const Mamba2Config& c, const Activations& a, LayerState& state,
                       const Batch& batch, Backend& backend) {
  auto rows = [&](const DeviceTensor& tensor) { return tensor.view.slice(0, 0, batch.tokens); };
  Tensor qkv = rows(a.qkv);
  backend.run(Linear{.x = rows(a.normed), .weight = w.in_proj.get(), .bias = w.in_proj_bias, .add = {}, .out = qkv});
  if (c.attention_conv_kernel > 0) {
    backend.run(CausalConv{.x = qkv,
                           .weight = w.conv1d,
                           .bias = w.conv1d_bias,
                           .act = Activation::none,
                           .batch = batch,
                           .conv_state = state.conv_state,
                           .out = rows(a.qkv_conv)});
    qkv = rows(a.qkv_conv);
  }
  const std::int64_t q_width = c.num_attention_heads * c.attention_head_dim;
  const std::int64_t kv_width = c.num_key_value_heads * c.attention_head_dim;
  const Tensor q = split_columns(qkv.slice(1, 0, q_width), c.num_attention_heads, c.attention_head_dim);
  const Tensor k = split_columns(qkv.slice(1, q_width, kv_width), c.num_key_value_heads, c.attention_head_dim);
  const Tensor v =
      split_columns(qkv.slice(1, q_width + kv_width, kv_width), c.num_key_value_heads, c.attention_head_dim);
  if (c.rope.rotary_dim > 0) {
    backend.run(Rope{.x = q, .batch = batch, .parameters = c.rope});
    backend.run(Rope{.x = k, .batch = batch, .parameters = c.rope});
  }
  const double scale =
      c.attention_scale > 0 ? c.attention_scale : 1.0 / std::sqrt(static_cast<double>(c.attention_head_dim));
  backend.run(Attention{.q = q,
                        .k = k,
                        .v = v,
                        .scale = scale,
                        .batch = batch,
                        .k_cache = state.k_cache,
                        .v_cache = state.v_cache,
                        .out = split_columns(rows(a.attended), c.num_attention_heads, c.attention_head_dim)});
  add_projection(rows(a.attended), w.out_proj, w.out_proj_bias, a, batch, backend);
}

void forward_mlp(const MlpWeights& w, const Mamba2Config& c, const Activations& a, const Batch& batch,
                 Backend& backend) {
  auto rows = [&](const DeviceTensor& tensor) { return tensor.view.slice(0, 0, batch.tokens); };
  const std::int64_t width = c.padded_mlp_size();
  const Tensor both = rows(a.mlp_in);
  backend.run(Linear{.x = rows(a.normed), .weight = w.fc1.get(), .bias = w.fc1_bias, .add = {}, .out = both});
  backend.run(GatedActivation{.value = both.slice(1, 0, width),
                              .gate = both.slice(1, width, width),
                              .act = c.hidden_act,
                              .out = rows(a.mlp_out)});
  add_projection(rows(a.mlp_out), w.fc2, w.fc2_bias, a, batch, backend);
}

/// Calls visit(buffer, width) for those that a model needs.
template <class Visit>
void for_each_buffer(Activations& a, const ModelPart& part, Visit&& visit) {
  const Mamba2Config& c = part.config;
  visit(a.hidden, c.hidden_size);
  visit(a.normed, c.hidden_size);
  visit(a.projected, c.in_proj_size());
  visit(a.xBC, c.conv_dim());
  visit(a.dt, c.num_heads);
  visit(a.y, c.intermediate_size());
  if (part.norm_groups > 0) visit(a.square_sums, part.norm_groups);
  visit(a.mixed, c.mixer_mlp_size + c.intermediate_size());
  if (c.has_attention()) {
    visit(a.qkv, c.attention_qkv_size());
    if (c.attention_conv_kernel > 0) visit(a.qkv_conv, c.attention_qkv_size());
    visit(a.attended, c.num_attention_heads * c.attention_head_dim);
  }
  if (c.has_mlp()) {
    visit(a.mlp_in, 2 * c.padded_mlp_size());
    visit(a.mlp_out, c.padded_mlp_size());
  }
}

}  // namespace

std::int64_t activation_bytes_per_token(const ModelPart& part, const Backend& backend) {
  Activations none;
  std::int64_t elements = 0;
  for_each_buffer(none, part, [&](const DeviceTensor&, std::int64_t width) { elements += width; });
  return static_cast<std::int64_t>(bytes_for(backend.activation_dtype(), elements));
}

void make_room(Activations& a, std::int64_t tokens, const ModelPart& part, Backend& backend) {
  if (tokens <= a.tokens) return;
  const DType dtype = backend.activation_dtype();
  for_each_buffer(a, part, [&](DeviceTensor& buffer, std::int64_t width) {
    buffer = backend.allocate(dtype, {tokens, width});
  });
  a.tokens = tokens;
}

void forward_layers(std::int64_t begin, std::int64_t end, const ModelWeights& weights, const ModelPart& part,
                    Activations& a, Mamba2Cache& cache, const Batch& batch, std::span<const MixerPart> mixer_parts,
                    Backend& backend) {
  const Mamba2Config& c = part.config;
  const Tensor hidden = a.hidden.view.slice(0, 0, batch.tokens), normed = a.normed.view.slice(0, 0, batch.tokens);
  // Mixers up to the next other layer.
  auto run_mixers = [&] {
    if (!a.mixers.empty()) backend.run(MixerLayers{a.mixers});
    a.mixers.clear();
  };
  a.mixers.clear();
  for (std::int64_t i = begin; i < end; ++i) {
    const LayerWeights& w = weights.layers[static_cast<std::size_t>(i)];
    if (c.is_attention_layer(i)) {
      run_mixers();
      backend.run(RmsNorm{.x = hidden, .weight = w.norm, .eps = c.layer_norm_epsilon, .out = normed});
      forward_attention(w.attention, c, a, cache.layer(i), batch, backend);
    } else if (backend.ranks() == 1 && mixer_parts.size() == 1) {
      a.mixers.push_back(mixer_layer(i, w, part, a, cache, mixer_parts.front()));
    } else {
      forward_mixer(i, w, part, a, cache, batch, mixer_parts, backend);
    }
    if (!c.has_mlp()) continue;
    run_mixers();
    backend.run(RmsNorm{.x = hidden, .weight = w.norm2, .eps = c.layer_norm_epsilon, .out = normed});
    forward_mlp(w.mlp, c, a, batch, backend);
  }
  run_mixers();
}

}  // namespace mamba2
