#include "mamba2/model/weights.h"

#include <fmt/core.h>

namespace mamba2 {
namespace {

/// Appends rows of the table under one prefix.
class Table {
 public:
  explicit Table(std::vector<TensorSlot>& slots) : slots_(slots) {}

  void prefix(std::string prefix) { prefix_ = std::move(prefix); }

  void matrix(std::string_view name, Matrix& matrix, const Shape& shape, SplitBy split, std::string_view text,
              WeightRole role = WeightRole::linear) {
    slots_.push_back({.name = prefix_ + std::string(name),
                      .shape = shape,
                      .shape_text = std::string(text),
                      .matrix = &matrix,
                      .role = role,
                      .split = split});
  }
  void vector(std::string_view name, DeviceTensor& vector, const Shape& shape, SplitBy split, std::string_view text) {
    slots_.push_back({.name = prefix_ + std::string(name),
                      .shape = shape,
                      .shape_text = std::string(text),
                      .vector = &vector,
                      .split = split});
  }

 private:
  std::vector<TensorSlot>& slots_;
  std::string prefix_;
};

void add_mixer(Table& table, const Mamba2Config& c, MixerWeights& w) {
  const std::int64_t out_width = c.mixer_mlp_size + c.intermediate_size();
  constexpr std::string_view in_rows =
      "2*intermediate_size + 2*n_groups*state_size + num_heads (+ 2*the mixer's own MLP)";
  table.matrix("in_proj.weight", w.in_proj, {c.in_proj_size(), c.hidden_size}, SplitBy::mixer_in,
               "(2*intermediate_size + 2*n_groups*state_size + num_heads (+ 2*the mixer's own MLP), hidden_size)");
  if (c.use_bias) table.vector("in_proj.bias", w.in_proj_bias, {c.in_proj_size()}, SplitBy::mixer_in, in_rows);
  table.vector("conv1d.weight", w.conv1d, {c.conv_dim(), 1, c.conv_kernel}, SplitBy::conv_channels,
               "(intermediate_size + 2*n_groups*state_size, 1, conv_kernel)");
  if (c.use_conv_bias)
    table.vector("conv1d.bias", w.conv1d_bias, {c.conv_dim()}, SplitBy::conv_channels,
                 "intermediate_size + 2*n_groups*state_size");
  table.vector("dt_bias", w.dt_bias, {c.num_heads}, SplitBy::part, "num_heads");
  table.vector("A_log", w.A_log, {c.num_heads}, SplitBy::part, "num_heads");
  if (c.D_has_head_dim)
    table.vector("D", w.D, {c.intermediate_size()}, SplitBy::part, "num_heads*head_dim");
  else
    table.vector("D", w.D, {c.num_heads}, SplitBy::part, "num_heads");
  if (c.gated_norm_weight)
    table.vector("norm.weight", w.norm, {c.intermediate_size()}, SplitBy::part, "intermediate_size");
  table.matrix("out_proj.weight", w.out_proj, {c.hidden_size, out_width}, SplitBy::mixer_out,
               "(hidden_size, intermediate_size (+ the mixer's own MLP))");
  if (c.use_bias) table.vector("out_proj.bias", w.out_proj_bias, {c.hidden_size}, SplitBy::first_rank, "hidden_size");
}

void add_attention(Table& table, const Mamba2Config& c, AttentionWeights& w) {
  constexpr std::string_view qkv = "(num_attention_heads + 2*num_key_value_heads)*attention_head_dim";
  table.matrix("in_proj.weight", w.in_proj, {c.attention_qkv_size(), c.hidden_size}, SplitBy::qkv,
               "((num_attention_heads + 2*num_key_value_heads)*attention_head_dim, hidden_size)");
  if (c.use_attention_qkv_bias)
    table.vector("in_proj.bias", w.in_proj_bias, {c.attention_qkv_size()}, SplitBy::qkv, qkv);
  if (c.attention_conv_kernel > 0) {
    table.vector("conv1d.weight", w.conv1d, {c.attention_qkv_size(), 1, c.attention_conv_kernel}, SplitBy::qkv,
                 "((num_attention_heads + 2*num_key_value_heads)*attention_head_dim, 1, attention_conv_kernel)");
    if (c.attention_conv_bias) table.vector("conv1d.bias", w.conv1d_bias, {c.attention_qkv_size()}, SplitBy::qkv, qkv);
  }
  table.matrix("out_proj.weight", w.out_proj, {c.hidden_size, c.num_attention_heads * c.attention_head_dim},
               SplitBy::attention_out, "(hidden_size, num_attention_heads*attention_head_dim)");
  if (c.use_attention_out_bias)
    table.vector("out_proj.bias", w.out_proj_bias, {c.hidden_size}, SplitBy::first_rank, "hidden_size");
}

void add_mlp(Table& table, const Mamba2Config& c, MlpWeights& w) {
  const std::int64_t width = c.padded_mlp_size();
  table.matrix("fc1.weight", w.fc1, {2 * width, c.hidden_size}, SplitBy::mlp_in,
               "(2*mlp_intermediate_size rounded up to mlp_padding_size, hidden_size)");
  if (c.use_mlp_bias)
    table.vector("fc1.bias", w.fc1_bias, {2 * width}, SplitBy::mlp_in, "2*mlp_intermediate_size rounded up");
  table.matrix("fc2.weight", w.fc2, {c.hidden_size, width}, SplitBy::mlp_out,
               "(hidden_size, mlp_intermediate_size rounded up to mlp_padding_size)");
  if (c.use_mlp_bias) table.vector("fc2.bias", w.fc2_bias, {c.hidden_size}, SplitBy::first_rank, "hidden_size");
}

}  // namespace

std::vector<TensorSlot> tensor_table(const Mamba2Config& c, ModelWeights& weights) {
  std::vector<TensorSlot> slots;
  Table table(slots);
  weights.layers.resize(static_cast<std::size_t>(c.num_hidden_layers));
  table.prefix("backbone.");
  table.matrix("embeddings.weight", weights.embeddings, {c.vocab_size, c.hidden_size}, SplitBy::nothing,
               "(vocab_size, hidden_size)", WeightRole::embedding);
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    LayerWeights& layer = weights.layers[static_cast<std::size_t>(i)];
    const std::string prefix = fmt::format("backbone.layers.{}.", i);
    table.prefix(prefix);
    table.vector("norm.weight", layer.norm, {c.hidden_size}, SplitBy::nothing, "hidden_size");
    table.prefix(prefix + "mixer.");
    if (c.is_attention_layer(i))
      add_attention(table, c, layer.attention);
    else
      add_mixer(table, c, layer.mixer);
    if (!c.has_mlp()) continue;
    table.prefix(prefix);
    table.vector("norm2.weight", layer.norm2, {c.hidden_size}, SplitBy::nothing, "hidden_size");
    table.prefix(prefix + "mlp.");
    add_mlp(table, c, layer.mlp);
  }
  table.prefix("backbone.");
  table.vector("norm_f.weight", weights.norm_f, {c.hidden_size}, SplitBy::nothing, "hidden_size");
  return slots;
}

}  // namespace mamba2
