#include <cmath>

#include "mamba2/base/error.h"
#include "mamba2/model/save_gguf.h"

namespace mamba2 {
namespace {

/// llama.cpp's numbers of what most matrices are (llama_ftype).
std::optional<std::uint32_t> file_type(std::optional<DType> dtype) {
  if (!dtype) return std::nullopt;
  switch (*dtype) {
    case DType::f32: return 0;
    case DType::f16: return 1;
    case DType::q4_0: return 2;
    case DType::q8_0: return 7;
    case DType::q4_k: return 14;
    case DType::q6_k: return 18;
    case DType::bf16: return 32;
    default: return std::nullopt;
  }
}

std::uint32_t size(std::int64_t value, const char* field) {
  require(value >= 0 && value <= 2147483647, "{} is {}, a GGUF file holds up to 2147483647", field, value);
  return static_cast<std::uint32_t>(value);
}

/// llama.cpp's mamba2 graph is the plain model; what it lacks would be left out without a word.
void check_has_words_for(const Mamba2Config& c) {
  constexpr const char* why = "which a GGUF file of architecture mamba2 can't say";
  require(!c.has_attention(), "attention_layers_idx names {} attention layers, {}", c.attention_layers_idx.size(), why);
  require(!c.has_mlp(), "mlp_intermediate_size is {}, {}", c.mlp_intermediate_size, why);
  require(c.mixer_mlp_size == 0, "d_mlp, the mixer's own MLP, is {} wide, {}", c.mixer_mlp_size, why);
  require(c.architecture.find("SequenceClassification") == std::string::npos, "architectures is {}, {}", c.architecture,
          why);
  require(!c.use_bias, "use_bias is true, {}", why);
  require(c.hidden_act == Activation::silu, "hidden_act is '{}', {}; expected silu", c.hidden_act_name, why);
  require(c.time_step_limit == TimeStepLimit{}, "time_step_limit is [{}, {}], {}; expected [0, Infinity]",
          c.time_step_limit.min, c.time_step_limit.max, why);
  require(!c.D_has_head_dim, "D_has_hdim is true, {}", why);
  require(c.gated_norm_weight, "rmsnorm is false, {}", why);
  require(c.gate_order == GateOrder::gate_first, "norm_before_gate is true, {}", why);
  require(c.gated_norm == GatedNorm::grouped || c.n_groups == 1, "gated_norm is ungrouped with n_groups {}, {}",
          c.n_groups, why);
  require(c.gated_norm_epsilon == c.layer_norm_epsilon,
          "the gated norm's epsilon is {} beside layer_norm_epsilon {}, {}", c.gated_norm_epsilon, c.layer_norm_epsilon,
          why);
  require(c.intermediate_size() == c.expand * c.hidden_size,
          "num_heads * head_dim is {}, {}; expected expand * hidden_size = {}", c.intermediate_size(), why,
          c.expand * c.hidden_size);
}

}  // namespace

GgufMetadataBuilder config_to_gguf(const Mamba2Config& c, std::optional<DType> dtype) {
  check_has_words_for(c);
  constexpr std::uint32_t any_length = 1U << 20;  // as llama.cpp's converter writes it: the model sets no limit
  GgufMetadataBuilder to;
  to.set_text("general.architecture", "mamba2");
  to.set_text("general.type", "model");
  if (const auto type = file_type(dtype)) to.set_u32("general.file_type", *type);
  to.set_u32("general.quantization_version", 2);
  to.set_u32("mamba2.context_length", any_length);
  to.set_u32("mamba2.embedding_length", size(c.hidden_size, "hidden_size"));
  to.set_u32("mamba2.feed_forward_length", 0);
  to.set_u32("mamba2.attention.head_count", 0);
  to.set_u32("mamba2.block_count", size(c.num_hidden_layers, "num_hidden_layers"));
  to.set_u32("mamba2.vocab_size", size(c.vocab_size, "vocab_size"));
  to.set_u32("mamba2.ssm.conv_kernel", size(c.conv_kernel, "conv_kernel"));
  to.set_u32("mamba2.ssm.inner_size", size(c.intermediate_size(), "intermediate_size"));
  to.set_u32("mamba2.ssm.state_size", size(c.state_size, "state_size"));
  to.set_u32("mamba2.ssm.time_step_rank", size(c.num_heads, "num_heads"));
  to.set_u32("mamba2.ssm.group_count", size(c.n_groups, "n_groups"));
  to.set_f32("mamba2.attention.layer_norm_rms_epsilon", static_cast<float>(c.layer_norm_epsilon));
  auto token = [&](const char* key, const char* field, const std::optional<std::int64_t>& id) {
    if (id) to.set_u32(key, size(*id, field));
  };
  token("tokenizer.ggml.bos_token_id", "bos_token_id", c.bos_token_id);
  token("tokenizer.ggml.eos_token_id", "eos_token_id", c.eos_token_id);
  token("tokenizer.ggml.padding_token_id", "pad_token_id", c.pad_token_id);
  return to;
}

}  // namespace mamba2
