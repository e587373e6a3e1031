#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"
#include "mamba2/model/config_fields.h"

/// Hugging Face's merged mamba2 and the fork with attention and MLP layers.  Defaults are those of their config
/// classes.
namespace mamba2 {
namespace {

/// Fields of transformers' base class that say nothing about what is computed.
void ignore_common_fields(ConfigFields& fields) {
  fields.ignore({"model_type",
                 "transformers_version",
                 "use_cache",
                 "_name_or_path",
                 "initializer_range",
                 "return_dict",
                 "output_hidden_states",
                 "output_attentions",
                 "torchscript",
                 "use_bfloat16",
                 "chunk_size_feed_forward",
                 "is_encoder_decoder",
                 "is_decoder",
                 "label2id",
                 "finetuning_task",
                 "task_specific_params",
                 "classifier_dropout",
                 "time_step_rank",
                 "time_step_min",
                 "time_step_max",
                 "time_step_floor",
                 "time_step_init_scheme",
                 "time_step_scale",
                 "rescale_prenorm_residual",
                 "auto_map"});
}

/// What the config class takes for a token where the field is absent; null says that there is none.
struct DefaultTokens {
  std::int64_t bos, eos, pad;
};

void read_tokens_and_dtype(Mamba2Config& config, ConfigFields& fields, const DefaultTokens& defaults) {
  config.bos_token_id = fields.token("bos_token_id", defaults.bos);
  config.eos_token_id = fields.token("eos_token_id", defaults.eos);
  config.pad_token_id = fields.token("pad_token_id", defaults.pad);
  config.dtype_name = fields.text("torch_dtype", fields.text("dtype", ""));
  if (const Json* names = fields.find("architectures");
      names != nullptr && names->is_array() && !names->empty() && names->front().is_string())
    config.architecture = names->front().get<std::string>();
}

void read_gated_norm(Mamba2Config& config, ConfigFields& fields) {
  const std::string form = fields.text("gated_norm", "grouped");
  require(form == "grouped" || form == "ungrouped", "{}: gated_norm is '{}', expected grouped or ungrouped",
          fields.where(), printable(form));
  config.gated_norm = form == "grouped" ? GatedNorm::grouped : GatedNorm::ungrouped;
}

/// The head count follows from the widths where it is absent.
void read_heads(Mamba2Config& config, ConfigFields& fields, std::string_view heads, std::string_view head_dim) {
  config.head_dim = fields.size(head_dim, 64);
  const std::int64_t width = config.expand * config.hidden_size;
  require(fields.has(heads) || width % config.head_dim == 0,
          "{}: {} is {}, expected a divisor of expand * hidden_size = {}", fields.where(), head_dim, config.head_dim,
          width);
  config.num_heads = fields.size(heads, width / config.head_dim);
  require(config.num_heads * config.head_dim == width, "{}: {} * {} is {} * {}, expected expand * hidden_size = {}",
          fields.where(), heads, head_dim, config.num_heads, config.head_dim, width);
}

RopeParameters read_rope(ConfigFields& fields) {
  RopeParameters rope;
  rope.rotary_dim = fields.size("rope_emb_dim", 64, 0);
  rope.theta = fields.positive("rope_theta", 10000.0);
  rope.max_position_embeddings = fields.size("max_position_embeddings", 2048);
  if (!fields.has("rope_scaling")) {
    fields.ignore({"rope_scaling"});
    return rope;
  }
  ConfigFields scaling = fields.object("rope_scaling");
  const std::string type = scaling.text("type", scaling.text("rope_type", ""));
  rope.factor = scaling.positive("factor", 1.0);
  if (type == "linear")
    rope.scaling = RopeScaling::linear;
  else if (type == "dynamic")
    rope.scaling = RopeScaling::dynamic;
  else
    require(type == "default" || type == "none", "{}: type is '{}', expected linear or dynamic", scaling.where(),
            printable(type));
  scaling.refuse_unread();
  return rope;
}

void read_attention(Mamba2Config& config, ConfigFields& fields) {
  config.attention_layers_idx = fields.sizes("attention_layers_idx");
  const std::int64_t low = config.has_attention() ? 1 : 0;
  config.num_attention_heads = fields.size("num_attention_heads", 30, low);
  config.num_key_value_heads = fields.size("num_key_value_heads", config.num_attention_heads, low);
  config.attention_head_dim = fields.size("attention_head_dim", 128, low);
  config.attention_conv_kernel = fields.size("attention_conv_kernel", 4, 0, longest_kernel);
  config.use_attention_qkv_bias = fields.flag("use_attention_qkv_bias", false);
  config.use_attention_out_bias = fields.flag("use_attention_out_bias", false);
  config.attention_conv_bias = config.use_conv_bias;
  config.rope = read_rope(fields);
  fields.ignore({"attention_dropout"});
}

/// Fields that both have by one name and with one default.  The head counts are read already.
void read_shared_fields(Mamba2Config& config, ConfigFields& fields) {
  ignore_common_fields(fields);
  config.chunk_size = fields.size("chunk_size", 256);
  config.use_conv_bias = fields.flag("use_conv_bias", true);
  read_activation(config, fields, "hidden_act");
  config.layer_norm_epsilon = fields.positive("layer_norm_epsilon", 1e-5);
  config.residual_in_fp32 = fields.flag("residual_in_fp32", true);
  config.time_step_limit = fields.limit("time_step_limit");
  const std::int64_t intermediate_size = fields.size("intermediate_size", config.intermediate_size());
  require(intermediate_size == config.intermediate_size(),
          "{}: intermediate_size is {}, expected the number of heads * their size = {}", fields.where(),
          intermediate_size, config.intermediate_size());
  // transformers reads neither of the two: its mixer always has the norm, gate first (its pull request 32686)
  fields.ignore({"rms_norm", "norm_before_gate"});
  fields.only("quantization_config", nullptr);
  read_gated_norm(config, fields);
  read_labels(config, fields);
}

}  // namespace

Mamba2Config read_huggingface_config(ConfigFields& fields) {
  Mamba2Config config;
  config.dialect = Dialect::huggingface;
  config.vocab_size = fields.size("vocab_size", 32768);
  config.hidden_size = fields.size("hidden_size", 4096);
  config.num_hidden_layers = fields.size("num_hidden_layers", 64, 0, most_layers);
  config.state_size = fields.size("state_size", 128);
  config.expand = fields.size("expand", 2);
  read_heads(config, fields, "num_heads", "head_dim");
  config.n_groups = fields.size("n_groups", 8);
  config.conv_kernel = fields.size("conv_kernel", 4, 1, longest_kernel);
  config.use_bias = fields.flag("use_bias", false);
  read_shared_fields(config, fields);
  config.gated_norm_epsilon = config.layer_norm_epsilon;
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", false);
  read_tokens_and_dtype(config, fields, {.bos = 0, .eos = 2, .pad = 1});
  return config;
}

Mamba2Config read_fork_config(ConfigFields& fields) {
  Mamba2Config config;
  config.dialect = Dialect::fork;
  fields.ignore({"emb_initializer_range", "conv_initializer_range", "A_initializer_range"});
  config.vocab_size = fields.size("vocab_size", 50280);
  config.hidden_size = fields.size("hidden_size", 768);
  config.num_hidden_layers = fields.size("num_hidden_layers", 24, 0, most_layers);
  config.state_size = fields.size("state_size", 128);
  config.expand = fields.size("expand", 2);
  read_heads(config, fields, "mamba2_num_heads", "mamba2_head_dim");
  config.n_groups = fields.size("n_groups", 1);
  config.conv_kernel = fields.size("mamba2_conv_kernel", 4, 1, longest_kernel);
  config.use_bias = fields.flag("use_mamba2_bias", false);
  read_shared_fields(config, fields);
  // the fork's mixer takes 1e-5 whatever layer_norm_epsilon is; the field is ours, for models from elsewhere
  config.gated_norm_epsilon = fields.positive("gated_norm_epsilon", fork_gated_norm_epsilon);
  config.tie_word_embeddings = fields.flag("tie_embedding_weights", fields.flag("tie_word_embeddings", true));
  config.mlp_intermediate_size = fields.size("mlp_intermediate_size", 0, 0);
  config.mlp_padding_size = fields.size("mlp_padding_size", 128);
  config.use_mlp_bias = fields.flag("use_mlp_bias", false);
  read_attention(config, fields);
  read_tokens_and_dtype(config, fields, {.bos = 0, .eos = 0, .pad = 0});
  return config;
}

}  // namespace mamba2
