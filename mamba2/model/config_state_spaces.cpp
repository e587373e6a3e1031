#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"
#include "mamba2/model/config_fields.h"

/// mamba_ssm's own config.json (MambaConfig with ssm_cfg and attn_cfg) and Mamba-Codestral's params.json, which
/// mistral-inference turns into one.  Defaults are those of mamba_ssm's classes.
namespace mamba2 {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// mamba_ssm 2's Mamba2 layer.
void read_ssm_cfg(Mamba2Config& config, ConfigFields fields) {
  const std::string layer = fields.text("layer", "Mamba1");
  require(layer == "Mamba2", "{}: layer is '{}', only Mamba2 is supported", fields.where(), printable(layer));
  fields.ignore(
      {"conv_init", "A_init_range", "dt_min", "dt_max", "dt_init_floor", "use_mem_eff_path", "sequence_parallel"});
  config.state_size = fields.size("d_state", 128);
  config.conv_kernel = fields.size("d_conv", 4, 1, longest_kernel);
  config.expand = fields.size("expand", 2);
  config.head_dim = fields.size("headdim", 64);
  config.n_groups = fields.size("ngroups", 1);
  const std::int64_t inner = config.expand * config.hidden_size;
  const std::int64_t width = fields.size("d_ssm", inner);
  require(width <= inner, "{}: d_ssm is {}, expected at most expand * d_model = {}", fields.where(), width, inner);
  require(width % config.head_dim == 0, "{}: headdim is {}, expected a divisor of {}", fields.where(), config.head_dim,
          width);
  config.num_heads = width / config.head_dim;
  config.mixer_mlp_size = inner - width;
  config.D_has_head_dim = fields.flag("D_has_hdim", false);
  config.gated_norm_weight = fields.flag("rmsnorm", true);
  config.gate_order = fields.flag("norm_before_gate", false) ? GateOrder::norm_first : GateOrder::gate_first;
  config.time_step_limit = fields.limit("dt_limit");
  config.use_bias = fields.flag("bias", false);
  config.use_conv_bias = fields.flag("conv_bias", true);
  config.chunk_size = fields.size("chunk_size", 256);
  fields.refuse_unread();
}

/// mamba_ssm 2's MHA layer.
void read_attn_cfg(Mamba2Config& config, ConfigFields fields) {
  if (!config.has_attention()) return;
  require(fields.flag("causal", false), "{}: causal is false, only true is supported", fields.where());
  config.num_attention_heads = fields.size("num_heads", 0);
  require(config.num_attention_heads > 0, "{}: num_heads is absent, expected 1 or more", fields.where());
  config.num_key_value_heads = fields.size("num_heads_kv", config.num_attention_heads);
  require(fields.has("head_dim") || config.hidden_size % config.num_attention_heads == 0,
          "{}: num_heads is {}, expected a divisor of d_model = {}", fields.where(), config.num_attention_heads,
          config.hidden_size);
  config.attention_head_dim = fields.size("head_dim", config.hidden_size / config.num_attention_heads);
  config.use_attention_qkv_bias = fields.flag("qkv_proj_bias", true);
  config.use_attention_out_bias = fields.flag("out_proj_bias", true);
  config.attention_conv_kernel = fields.size("d_conv", 0, 0, longest_kernel);
  config.attention_conv_bias = config.use_attention_qkv_bias;
  if (fields.has("softmax_scale")) config.attention_scale = fields.positive("softmax_scale", 0);
  fields.ignore({"softmax_scale"});
  config.rope.rotary_dim = fields.size("rotary_emb_dim", 0, 0);
  config.rope.theta = fields.positive("rotary_emb_base", 10000.0);
  fields.only("rotary_emb_interleaved", false);
  fields.only("mlp_dim", 0);
  fields.refuse_unread();
}

}  // namespace

Mamba2Config read_state_spaces_config(ConfigFields& fields) {
  Mamba2Config config;
  config.dialect = Dialect::state_spaces;
  fields.ignore({"model_type", "architectures", "transformers_version", "fused_add_norm", "_name_or_path"});
  config.hidden_size = fields.size("d_model", 2560);
  config.num_hidden_layers = fields.size("n_layer", 64, 0, most_layers);
  config.vocab_size = round_up(fields.size("vocab_size", 50277), fields.size("pad_vocab_size_multiple", 8, 1, 1 << 24));
  config.layer_norm_epsilon = config.gated_norm_epsilon = 1e-5;
  config.residual_in_fp32 = fields.flag("residual_in_fp32", true);
  config.tie_word_embeddings = fields.flag("tie_embeddings", true);
  fields.only("rms_norm", true);
  config.mlp_intermediate_size = fields.size("d_intermediate", 0, 0);
  config.mlp_padding_size = 128;
  config.attention_layers_idx = fields.sizes("attn_layer_idx");
  read_ssm_cfg(config, fields.object("ssm_cfg"));
  read_attn_cfg(config, fields.object("attn_cfg"));
  config.dtype_name = fields.text("torch_dtype", "");
  config.bos_token_id = fields.token("bos_token_id");
  config.eos_token_id = fields.token("eos_token_id");
  config.pad_token_id = fields.token("pad_token_id");
  return config;
}

Mamba2Config read_codestral_config(ConfigFields& fields) {
  Mamba2Config config;
  config.dialect = Dialect::codestral;
  fields.ignore({"model_type", "fused_add_norm"});
  config.hidden_size = fields.size("dim", 4096);
  config.num_hidden_layers = fields.size("n_layers", 64, 0, most_layers);
  config.vocab_size = round_up(fields.size("vocab_size", 32768), fields.size("pad_vocab_size_multiple", 1, 1, 1 << 24));
  config.n_groups = fields.size("n_groups", 8);
  config.tie_word_embeddings = fields.flag("tie_embeddings", false);
  config.residual_in_fp32 = fields.flag("residual_in_fp32", true);
  fields.only("rms_norm", true);
  config.layer_norm_epsilon = config.gated_norm_epsilon = 1e-5;
  config.state_size = 128;
  config.head_dim = 64;
  const std::int64_t width = config.expand * config.hidden_size;
  require(width % config.head_dim == 0, "{}: dim is {}, expected a multiple of {}", fields.where(), config.hidden_size,
          config.head_dim / config.expand);
  config.num_heads = width / config.head_dim;
  return config;
}

}  // namespace mamba2
