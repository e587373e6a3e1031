#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mamba2/model/config.h"
#include "mamba2/ops/backend.h"

namespace mamba2 {

using Matrix = std::unique_ptr<PreparedWeight>;

/// A Mamba-2 mixer; shapes in the config's words, mlp = mixer_mlp_size.
struct MixerWeights {
  Matrix in_proj;             ///< (in_proj_size, hidden_size)
  DeviceTensor in_proj_bias;  ///< (in_proj_size)
  DeviceTensor conv1d;        ///< (conv_dim, conv_kernel)
  DeviceTensor conv1d_bias;   ///< (conv_dim)
  DeviceTensor dt_bias;       ///< (num_heads)
  DeviceTensor A_log;         ///< (num_heads)
  DeviceTensor D;             ///< (num_heads) or (num_heads, head_dim)
  DeviceTensor norm;          ///< (intermediate_size)
  Matrix out_proj;            ///< (hidden_size, mlp + intermediate_size)
  DeviceTensor out_proj_bias;
};

struct AttentionWeights {
  Matrix in_proj;             ///< (attention_qkv_size, hidden_size): queries, keys, values
  DeviceTensor in_proj_bias;  ///< (attention_qkv_size)
  DeviceTensor conv1d;        ///< (attention_qkv_size, attention_conv_kernel)
  DeviceTensor conv1d_bias;   ///< (attention_qkv_size)
  Matrix out_proj;            ///< (hidden_size, num_attention_heads * attention_head_dim)
  DeviceTensor out_proj_bias;
};

struct MlpWeights {
  Matrix fc1;  ///< (2 * padded_mlp_size, hidden_size): value, gate
  DeviceTensor fc1_bias;
  Matrix fc2;  ///< (hidden_size, padded_mlp_size)
  DeviceTensor fc2_bias;
};

struct LayerWeights {
  DeviceTensor norm;           ///< (hidden_size)
  MixerWeights mixer;          ///< empty in an attention layer
  AttentionWeights attention;  ///< empty in a mixer layer
  DeviceTensor norm2;          ///< (hidden_size), where there is an MLP
  MlpWeights mlp;
};

/// The fork's head (dense, SiLU, out_proj) or a plain linear one (out_proj alone).
struct ClassifierWeights {
  Matrix dense;  ///< (hidden_size, hidden_size)
  DeviceTensor dense_bias;
  Matrix out_proj;  ///< (num_labels, hidden_size)
  DeviceTensor out_proj_bias;
};

struct ModelWeights {
  std::deque<HostTensor> cut;  ///< what a rank holds of the file's tensors, where matrices use it as it lies
  Matrix embeddings;           ///< (vocab_size, hidden_size)
  std::vector<LayerWeights> layers;
  DeviceTensor norm_f;  ///< (hidden_size)
  Matrix lm_head;       ///< (vocab_size, hidden_size); null where the embeddings serve
  ClassifierWeights classifier;

  const PreparedWeight* head() const { return lm_head ? lm_head.get() : embeddings.get(); }
};

/// How a tensor is split over the ranks of a model (mamba2/model/split.h), along its rows or its columns.
enum class SplitBy : std::uint8_t {
  nothing,        ///< every rank has all of it
  first_rank,     ///< rank 0 has all of it: a bias of what is summed over the ranks
  part,           ///< equal parts in the order of the ranks: heads, or their channels
  mixer_in,       ///< rows [z0 | x0 | z | x | B | C | dt]
  conv_channels,  ///< rows [x | B | C]
  mixer_out,      ///< columns [the mixer's own MLP | y]
  qkv,            ///< rows [queries | keys | values]
  attention_out,  ///< columns, by query heads
  mlp_in,         ///< rows [value | gate]
  mlp_out         ///< columns
};

/// One row of the table of tensors, which drives load and save.
struct TensorSlot {
  std::string name;          ///< canonical, as Hugging Face saves it
  Shape shape;               ///< as stored
  std::string shape_text;    ///< the shape in the config's words, for errors
  Matrix* matrix = nullptr;  ///< exactly one of the two is set
  DeviceTensor* vector = nullptr;
  WeightRole role = WeightRole::linear;
  SplitBy split = SplitBy::nothing;
};

/// Every tensor of a model with this config, in the order of the forward pass.  weights.layers is sized to fit.
std::vector<TensorSlot> tensor_table(const Mamba2Config& config, ModelWeights& weights);

}  // namespace mamba2
