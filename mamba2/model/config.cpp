#include "mamba2/model/config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"
#include "mamba2/base/log.h"
#include "mamba2/model/config_fields.h"

namespace mamba2 {
namespace {

Dialect recognise(const ConfigFields& fields) {
  if (!fields.has("hidden_size") && (fields.has("d_model") || fields.has("ssm_cfg"))) return Dialect::state_spaces;
  if (fields.has("dim") && fields.has("n_layers")) return Dialect::codestral;
  for (const std::string_view field : {"mamba2_num_heads", "mamba2_head_dim", "mamba2_conv_kernel", "use_mamba2_bias",
                                       "attention_layers_idx", "mlp_intermediate_size", "tie_embedding_weights"})
    if (fields.has(field)) return Dialect::fork;
  for (const std::string_view field : {"hidden_size", "state_size", "model_type"})
    if (fields.has(field)) return Dialect::huggingface;
  fail("{}: is no Mamba-2 config: found none of hidden_size (transformers), d_model (mamba_ssm), dim (Mamba-Codestral)",
       fields.where());
}

void check_model_type(ConfigFields& fields, Dialect dialect) {
  const std::string type = fields.text("model_type", "mamba2");
  const bool fits = type == "mamba2" || dialect == Dialect::state_spaces ||
                    (dialect == Dialect::codestral && (type == "mamba" || type == "mamba2"));
  require(fits, "{}: model_type is '{}', expected mamba2", fields.where(), printable(type));
}

void check_attention(Mamba2Config& config, std::string_view source) {
  std::vector<std::int64_t>& layers = config.attention_layers_idx;
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  for (const std::int64_t layer : config.attention_layers_idx)
    require(0 <= layer && layer < config.num_hidden_layers,
            "{}: the attention layers hold {}, expected indices below num_hidden_layers = {}", source, layer,
            config.num_hidden_layers);
  if (!config.has_attention()) return;
  require(config.num_attention_heads % config.num_key_value_heads == 0,
          "{}: num_key_value_heads is {}, expected a divisor of num_attention_heads = {}", source,
          config.num_key_value_heads, config.num_attention_heads);
  require(config.rope.rotary_dim <= config.attention_head_dim && config.rope.rotary_dim % 2 == 0,
          "{}: the rotary dimension is {}, expected an even number up to the attention head's {}", source,
          config.rope.rotary_dim, config.attention_head_dim);
  require(config.rope.scaling != RopeScaling::dynamic || config.rope.rotary_dim != 2,
          "{}: the rotary dimension is 2, expected 4 or more for dynamic scaling, whose exponent is dim / (dim - 2)",
          source);
}

/// Sizes beyond any model: products of them must fit 64 bits with room to spare, whatever the file says.
void check_sizes(const Mamba2Config& config, std::string_view source) {
  constexpr std::int64_t largest = std::int64_t{1} << 40;  // elements of one tensor; 4 TiB in f32
  auto bounded = [&](std::string_view what, std::int64_t rows, std::int64_t columns) {
    require(rows <= largest / std::max<std::int64_t>(columns, 1), "{}: {} would be ({}, {}), more than 2^40 elements",
            source, what, rows, columns);
  };
  bounded("the embeddings (vocab_size, hidden_size)", config.vocab_size, config.hidden_size);
  bounded("(num_heads, head_dim)", config.num_heads, config.head_dim);
  bounded("(n_groups, state_size)", config.n_groups, config.state_size);
  bounded("the state (num_heads*head_dim, state_size)", config.intermediate_size(), config.state_size);
  bounded("the mixer's own MLP", config.mixer_mlp_size, config.hidden_size);
  bounded("in_proj (2*num_heads*head_dim + 2*n_groups*state_size + num_heads, hidden_size)", config.in_proj_size(),
          config.hidden_size);
  bounded("(num_attention_heads + 2*num_key_value_heads, attention_head_dim)",
          config.num_attention_heads + 2 * config.num_key_value_heads, config.attention_head_dim);
  bounded("the attention's in_proj (heads and attention_head_dim, hidden_size)", config.attention_qkv_size(),
          config.hidden_size);
  require(config.num_heads % config.n_groups == 0, "{}: n_groups is {}, expected a divisor of num_heads = {}", source,
          config.n_groups, config.num_heads);
  bounded("the MLP (2*mlp_intermediate_size, hidden_size)", 2 * config.padded_mlp_size(), config.hidden_size);
}

}  // namespace

std::string_view name(Dialect dialect) {
  switch (dialect) {
    case Dialect::huggingface: return "huggingface";
    case Dialect::fork: return "fork";
    case Dialect::state_spaces: return "state-spaces";
    case Dialect::codestral: return "codestral";
    case Dialect::gguf: return "gguf";
  }
  return "unknown";
}

std::int64_t Mamba2Config::padded_mlp_size() const {
  return (mlp_intermediate_size + mlp_padding_size - 1) / mlp_padding_size * mlp_padding_size;
}

bool Mamba2Config::is_attention_layer(std::int64_t layer) const {
  return std::find(attention_layers_idx.begin(), attention_layers_idx.end(), layer) != attention_layers_idx.end();
}

Mamba2Config Mamba2Config::from_json(const Json& json, std::string_view source) {
  ConfigFields fields(json, std::string(source));
  const Dialect dialect = recognise(fields);
  check_model_type(fields, dialect);
  Mamba2Config config;
  switch (dialect) {
    case Dialect::huggingface: config = read_huggingface_config(fields); break;
    case Dialect::fork: config = read_fork_config(fields); break;
    case Dialect::state_spaces: config = read_state_spaces_config(fields); break;
    case Dialect::codestral: config = read_codestral_config(fields); break;
    case Dialect::gguf: break;  // not told by its fields: from_gguf
  }
  check_sizes(config, source);
  check_attention(config, source);
  Json other = Json::object();
  for (const std::string& field : fields.unread()) {
    log_debug("{}: {} is not known and has no effect", source, printable(field));
    other[field] = json.at(field);
  }
  for (const char* field : {"initializer_range", "time_step_min", "time_step_max", "time_step_floor", "time_step_rank"})
    if (json.contains(field)) other[field] = json.at(field);
  config.other_fields = json_text(other);
  return config;
}

}  // namespace mamba2
