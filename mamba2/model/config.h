#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "mamba2/base/json.h"
#include "mamba2/ops/ops.h"

namespace mamba2 {

class GgufMetadata;

/// Who wrote the config: it decides the names of fields, tensors and defaults.
enum class Dialect : std::uint8_t {
  huggingface,   ///< transformers' merged mamba2
  fork,          ///< the fork with attention and MLP layers
  state_spaces,  ///< mamba_ssm's config.json with d_model and ssm_cfg
  codestral,     ///< Mamba-Codestral's params.json
  gguf           ///< the metadata of a GGUF file of architecture mamba2
};

/// "huggingface", "fork", "state-spaces", "codestral", "gguf"
std::string_view name(Dialect dialect);

/// How the norm before out_proj takes its mean when n_groups > 1: per group, as the models are trained, or over the
/// whole width, as transformers infers.  The same when n_groups is 1.
enum class GatedNorm : std::uint8_t { grouped, ungrouped };

/// What the labels of a classification are.
enum class ProblemType : std::uint8_t { single_label_classification, multi_label_classification, regression };

/// The fork's mixer has it fixed.
inline constexpr double fork_gated_norm_epsilon = 1e-5;

/// Every dialect's config as one.  Names are Hugging Face's; sizes count elements.
struct Mamba2Config {
  Dialect dialect = Dialect::huggingface;
  std::string architecture = "Mamba2ForCausalLM";

  std::int64_t vocab_size = 50288;  ///< rows of the embeddings, padding included
  std::int64_t hidden_size = 2560;
  std::int64_t num_hidden_layers = 64;
  double layer_norm_epsilon = 1e-5;
  bool tie_word_embeddings = false;
  bool residual_in_fp32 = true;  ///< the residual stream is f32 here in any case

  // Mamba-2 mixer
  std::int64_t state_size = 128;
  std::int64_t expand = 2;
  std::int64_t num_heads = 80;
  std::int64_t head_dim = 64;
  std::int64_t n_groups = 1;
  std::int64_t conv_kernel = 4;
  std::int64_t chunk_size = 256;
  bool use_bias = false;
  bool use_conv_bias = true;
  Activation hidden_act = Activation::silu;
  std::string hidden_act_name = "silu";
  TimeStepLimit time_step_limit;
  bool gated_norm_weight = true;  ///< ssm_cfg's rmsnorm; false: gate only
  GateOrder gate_order = GateOrder::gate_first;
  GatedNorm gated_norm = GatedNorm::grouped;
  double gated_norm_epsilon = 1e-5;
  std::int64_t mixer_mlp_size = 0;  ///< width of the gated MLP inside the mixer (d_mlp)
  bool D_has_head_dim = false;

  // attention layers
  std::vector<std::int64_t> attention_layers_idx;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t attention_head_dim = 0;
  std::int64_t attention_conv_kernel = 0;  ///< 0: no convolution
  bool attention_conv_bias = false;
  bool use_attention_qkv_bias = false;
  bool use_attention_out_bias = false;
  RopeParameters rope;
  double attention_scale = 0;  ///< 0: 1 / sqrt(attention_head_dim)

  // MLP after each mixer; 0: none
  std::int64_t mlp_intermediate_size = 0;
  std::int64_t mlp_padding_size = 128;
  bool use_mlp_bias = false;

  // classification
  std::int64_t num_labels = 2;
  std::map<std::int64_t, std::string> id2label;
  std::optional<ProblemType> problem_type;

  // tokens
  std::optional<std::int64_t> bos_token_id, eos_token_id, pad_token_id;

  std::string dtype_name;  ///< torch_dtype / dtype as written, empty where absent
  /// Fields that have no effect on inference (initialisation, unknown ones) as the text of a JSON object, so that
  /// saving keeps them.
  std::string other_fields = "{}";

  std::int64_t intermediate_size() const { return num_heads * head_dim; }
  std::int64_t conv_dim() const { return intermediate_size() + 2 * n_groups * state_size; }
  std::int64_t in_proj_size() const { return 2 * mixer_mlp_size + intermediate_size() + conv_dim() + num_heads; }
  std::int64_t attention_qkv_size() const {
    return (num_attention_heads + 2 * num_key_value_heads) * attention_head_dim;
  }
  std::int64_t norm_group_size() const {
    return gated_norm == GatedNorm::grouped ? intermediate_size() / n_groups : intermediate_size();
  }
  /// mlp_intermediate_size rounded up to a multiple of mlp_padding_size.
  std::int64_t padded_mlp_size() const;
  bool is_attention_layer(std::int64_t layer) const;
  bool has_attention() const { return !attention_layers_idx.empty(); }
  bool has_mlp() const { return mlp_intermediate_size > 0; }

  /// Reads a config.json or params.json of any dialect; source is the file's name for errors.  Throws Error naming the
  /// field, what was expected and what was found: a wrong type, a size that is no size, sizes that do not fit each
  /// other, a field that changes the computation and is not supported.
  static Mamba2Config from_json(const Json& json, std::string_view source);

  /// The same from the metadata of a GGUF file.  Its architecture must be mamba2.
  static Mamba2Config from_gguf(const GgufMetadata& metadata);
};

}  // namespace mamba2
