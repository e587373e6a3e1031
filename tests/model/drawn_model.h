#pragma once

#include <cmath>
#include <utility>

#include "mamba2/base/random.h"
#include "mamba2/checkpoint/tensor_source.h"
#include "mamba2/model/weights.h"
#include "tests/cpu/properties.h"

namespace mamba2::test {

/// A checkpoint of drawn weights.
class DrawnTensors : public TensorSource {
 public:
  DrawnTensors(const Mamba2Config& config, std::uint64_t seed) : DrawnTensors(draw(config, seed)) {}
  std::string_view format() const override { return "drawn"; }

 protected:
  Tensor read_at(std::size_t index) const override { return values_[index].view(); }

 private:
  struct Drawn {
    std::vector<TensorInfo> infos;
    std::vector<HostTensor> values;
  };
  explicit DrawnTensors(Drawn drawn) : TensorSource("drawn weights", drawn.infos), values_(std::move(drawn.values)) {}

  static Drawn draw(const Mamba2Config& config, std::uint64_t seed) {
    Random random(seed);
    Drawn drawn;
    ModelWeights unused;
    for (const TensorSlot& slot : tensor_table(config, unused)) {
      HostTensor& values = drawn.values.emplace_back(DType::f32, slot.shape);
      const double scale = slot.shape.rank() == 2 ? 1 / std::sqrt(static_cast<double>(slot.shape[1])) : 1;
      for (float& value : values.span<float>()) value = static_cast<float>(scale * random.normal());
      drawn.infos.push_back(
          {.name = slot.name, .dtype = DType::f32, .shape = slot.shape, .file = {}, .bytes = values.view().bytes()});
    }
    return drawn;
  }

  std::vector<HostTensor> values_;
};

/// A config of any sizes that so many ranks divide.
inline Mamba2Config any_divisible_config(int ranks) {
  Mamba2Config c;
  c.num_hidden_layers = 2;
  c.vocab_size = 13;
  c.hidden_size = from_to(3, 9);
  c.tie_word_embeddings = true;
  c.num_heads = ranks * from_to(1, 4);
  do c.n_groups = from_to(1, c.num_heads);
  while (c.num_heads % c.n_groups != 0);
  c.head_dim = from_to(1, 5);
  c.state_size = from_to(1, 6);
  c.conv_kernel = from_to(1, 4);
  c.use_bias = any_of({0, 1}) == 1;
  c.gated_norm_weight = any_of({0, 1, 1, 1}) == 1;
  c.gate_order = any_of({0, 1}) == 1 ? GateOrder::gate_first : GateOrder::norm_first;
  c.gated_norm = any_of({0, 1}) == 1 ? GatedNorm::grouped : GatedNorm::ungrouped;
  c.mixer_mlp_size = ranks * any_of({0, 1, 3});
  c.D_has_head_dim = any_of({0, 1}) == 1;
  if (any_of({0, 1}) == 1) {
    c.attention_layers_idx = {1};
    c.num_attention_heads = ranks * from_to(1, 3);
    do c.num_key_value_heads = from_to(1, c.num_attention_heads);
    while (c.num_attention_heads % c.num_key_value_heads != 0);
    c.attention_head_dim = any_of({2, 4});
    c.rope.rotary_dim = any_of({0, 2});
    c.attention_conv_kernel = any_of({0, 3});
    c.attention_conv_bias = c.attention_conv_kernel > 0;
    c.use_attention_qkv_bias = c.use_attention_out_bias = any_of({0, 1}) == 1;
  }
  if (any_of({0, 1}) == 1) {
    c.mlp_intermediate_size = ranks * from_to(1, 6);
    c.mlp_padding_size = ranks * from_to(1, 3);
    c.use_mlp_bias = any_of({0, 1}) == 1;
  }
  return c;
}

}  // namespace mamba2::test
