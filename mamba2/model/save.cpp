#include "mamba2/model/save.h"

#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/checkpoint/save_safetensors.h"
#include "mamba2/model/config_fields.h"
#include "mamba2/model/load.h"
#include "mamba2/model/weights.h"

namespace mamba2 {
namespace {

bool is_classifier(const Mamba2Config& c) {
  return c.architecture.find("SequenceClassification") != std::string::npos;
}

Json time_step_limit_json(const TimeStepLimit& limit) {
  return Json::array({limit.min, limit.max});
}

std::string torch_name(DType dtype) {
  switch (dtype) {
    case DType::bf16: return "bfloat16";
    case DType::f16: return "float16";
    case DType::f64: return "float64";
    default: return "float32";
  }
}

void add_labels(Json& json, const Mamba2Config& c) {
  if (!is_classifier(c)) return;
  Json id2label = Json::object(), label2id = Json::object();
  for (std::int64_t i = 0; i < c.num_labels; ++i) {
    const auto found = c.id2label.find(i);
    const std::string label = found == c.id2label.end() ? fmt::format("LABEL_{}", i) : found->second;
    id2label[std::to_string(i)] = label;
    label2id[label] = i;
  }
  json["num_labels"] = c.num_labels;
  json["id2label"] = id2label;
  json["label2id"] = label2id;
  if (!c.problem_type) return;
  switch (*c.problem_type) {
    case ProblemType::regression: json["problem_type"] = "regression"; break;
    case ProblemType::single_label_classification: json["problem_type"] = "single_label_classification"; break;
    case ProblemType::multi_label_classification: json["problem_type"] = "multi_label_classification"; break;
  }
}

void add_tokens(Json& json, const Mamba2Config& c) {
  auto id = [](const std::optional<std::int64_t>& token) { return token ? Json(*token) : Json(nullptr); };
  json["bos_token_id"] = id(c.bos_token_id);
  json["eos_token_id"] = id(c.eos_token_id);
  json["pad_token_id"] = id(c.pad_token_id);
}

/// What Hugging Face's dialect and the fork's name alike.
Json common_json(const Mamba2Config& c, const std::string& dtype_name) {
  Json json = Json::parse(c.other_fields);
  json["architectures"] = Json::array({c.architecture});
  json["model_type"] = "mamba2";
  json["torch_dtype"] = dtype_name;
  json["vocab_size"] = c.vocab_size;
  json["hidden_size"] = c.hidden_size;
  json["num_hidden_layers"] = c.num_hidden_layers;
  json["state_size"] = c.state_size;
  json["expand"] = c.expand;
  json["n_groups"] = c.n_groups;
  json["chunk_size"] = c.chunk_size;
  json["use_conv_bias"] = c.use_conv_bias;
  json["hidden_act"] = c.hidden_act_name;
  json["layer_norm_epsilon"] = c.layer_norm_epsilon;
  json["residual_in_fp32"] = c.residual_in_fp32;
  // no limit is the default, and leaving it out spares older readers a number that JSON has no word for
  if (c.time_step_limit != TimeStepLimit{}) json["time_step_limit"] = time_step_limit_json(c.time_step_limit);
  // transformers divides out_proj once more when it loads a config that says true
  json["rescale_prenorm_residual"] = false;
  json["use_cache"] = true;
  if (c.gated_norm == GatedNorm::ungrouped) json["gated_norm"] = "ungrouped";
  add_tokens(json, c);
  add_labels(json, c);
  return json;
}

Json huggingface_json(const Mamba2Config& c, const std::string& dtype_name) {
  Json json = common_json(c, dtype_name);
  json["num_heads"] = c.num_heads;
  json["head_dim"] = c.head_dim;
  json["conv_kernel"] = c.conv_kernel;
  json["use_bias"] = c.use_bias;
  json["rms_norm"] = true;
  json["tie_word_embeddings"] = c.tie_word_embeddings;
  return json;
}

Json fork_json(const Mamba2Config& c, const std::string& dtype_name) {
  Json json = common_json(c, dtype_name);
  json["mamba2_num_heads"] = c.num_heads;
  json["mamba2_head_dim"] = c.head_dim;
  json["mamba2_conv_kernel"] = c.conv_kernel;
  json["use_mamba2_bias"] = c.use_bias;
  json["mlp_intermediate_size"] = c.mlp_intermediate_size;
  json["mlp_padding_size"] = c.mlp_padding_size;
  json["use_mlp_bias"] = c.use_mlp_bias;
  json["attention_layers_idx"] = c.attention_layers_idx;
  json["num_attention_heads"] = c.num_attention_heads;
  json["num_key_value_heads"] = c.num_key_value_heads;
  json["attention_head_dim"] = c.attention_head_dim;
  json["attention_conv_kernel"] = c.attention_conv_kernel;
  json["use_attention_qkv_bias"] = c.use_attention_qkv_bias;
  json["use_attention_out_bias"] = c.use_attention_out_bias;
  json["rope_emb_dim"] = c.rope.rotary_dim;
  json["rope_theta"] = c.rope.theta;
  json["rope_scaling"] = nullptr;
  if (c.rope.scaling != RopeScaling::none)
    json["rope_scaling"] = {{"type", c.rope.scaling == RopeScaling::linear ? "linear" : "dynamic"},
                            {"factor", c.rope.factor}};
  json["max_position_embeddings"] = c.rope.max_position_embeddings;
  if (c.gated_norm_epsilon != fork_gated_norm_epsilon) json["gated_norm_epsilon"] = c.gated_norm_epsilon;
  json["tie_embedding_weights"] = c.tie_word_embeddings;
  json["tie_word_embeddings"] = c.tie_word_embeddings;
  return json;
}

Json state_spaces_json(const Mamba2Config& c) {
  require(c.hidden_act == Activation::silu, "hidden_act '{}' can't be saved together with {}", c.hidden_act_name,
          "what only mamba_ssm's config can say");
  require(!c.use_mlp_bias && c.rope.scaling == RopeScaling::none && !is_classifier(c),
          "an MLP bias, RoPE scaling or a classification head can't be saved together with what only mamba_ssm's "
          "config can say");
  require(c.gated_norm == GatedNorm::grouped || c.n_groups == 1,
          "an ungrouped norm can't be saved together with what only mamba_ssm's config can say");
  Json ssm = {{"layer", "Mamba2"},
              {"d_state", c.state_size},
              {"d_conv", c.conv_kernel},
              {"expand", c.expand},
              {"headdim", c.head_dim},
              {"ngroups", c.n_groups},
              {"d_ssm", c.intermediate_size()},
              {"D_has_hdim", c.D_has_head_dim},
              {"rmsnorm", c.gated_norm_weight},
              {"norm_before_gate", c.gate_order == GateOrder::norm_first},
              {"bias", c.use_bias},
              {"conv_bias", c.use_conv_bias},
              {"chunk_size", c.chunk_size}};
  if (c.time_step_limit != TimeStepLimit{}) ssm["dt_limit"] = time_step_limit_json(c.time_step_limit);
  Json attention = Json::object();
  if (c.has_attention())
    attention = {{"causal", true},
                 {"num_heads", c.num_attention_heads},
                 {"num_heads_kv", c.num_key_value_heads},
                 {"head_dim", c.attention_head_dim},
                 {"d_conv", c.attention_conv_kernel},
                 {"qkv_proj_bias", c.use_attention_qkv_bias},
                 {"out_proj_bias", c.use_attention_out_bias},
                 {"rotary_emb_dim", c.rope.rotary_dim},
                 {"rotary_emb_base", c.rope.theta}};
  if (c.attention_scale > 0) attention["softmax_scale"] = c.attention_scale;
  Json json = {{"d_model", c.hidden_size},
               {"d_intermediate", c.mlp_intermediate_size},
               {"n_layer", c.num_hidden_layers},
               {"vocab_size", c.vocab_size},
               {"pad_vocab_size_multiple", 1},
               {"ssm_cfg", ssm},
               {"attn_layer_idx", c.attention_layers_idx},
               {"attn_cfg", attention},
               {"rms_norm", true},
               {"residual_in_fp32", c.residual_in_fp32},
               {"fused_add_norm", true},
               {"tie_embeddings", c.tie_word_embeddings}};
  // mamba_ssm refuses fields that it does not know: no more of them than there were
  for (const auto& [field, token] :
       {std::pair{"bos_token_id", c.bos_token_id}, {"eos_token_id", c.eos_token_id}, {"pad_token_id", c.pad_token_id}})
    if (token) json[field] = *token;
  return json;
}

/// The name in the file and the stored tensor's name in the canonical form.
struct SavedTensor {
  std::string canonical;
  TensorSpec spec;
};

std::vector<SavedTensor> tensors_to_save(const Mamba2Config& config, const CanonicalTensors& tensors, Dialect dialect,
                                         std::optional<DType> dtype) {
  ModelWeights unused;
  std::vector<std::string> names;
  for (const TensorSlot& slot : tensor_table(config, unused)) names.push_back(slot.name);
  if (!config.tie_word_embeddings) names.emplace_back("lm_head.weight");
  for (const auto& [canonical, info] : tensors.all())
    for (const std::string_view head : {"classification_head.", "score.", "classifier."})
      if (canonical.starts_with(head)) names.push_back(canonical);

  std::vector<SavedTensor> saved;
  for (const std::string& canonical : names) {
    const TensorInfo* info = tensors.find(canonical);
    if (info == nullptr && canonical == "lm_head.weight") continue;
    require(info != nullptr, "tensor '{}' is missing, nothing was saved", canonical);
    std::string name = canonical;
    if (dialect == Dialect::state_spaces && name == "backbone.embeddings.weight") name = "backbone.embedding.weight";
    saved.push_back(
        {canonical, {name, dtype.value_or(is_quantized(info->dtype) ? DType::f32 : info->dtype), info->shape}});
  }
  return saved;
}

}  // namespace

Dialect dialect_to_save(const Mamba2Config& c) {
  const bool only_state_spaces = c.mixer_mlp_size > 0 || c.D_has_head_dim || !c.gated_norm_weight ||
                                 c.gate_order == GateOrder::norm_first || c.attention_scale > 0;
  if (only_state_spaces) return Dialect::state_spaces;
  const bool only_fork =
      c.has_attention() || c.has_mlp() || is_classifier(c) || c.gated_norm_epsilon != c.layer_norm_epsilon;
  return only_fork ? Dialect::fork : Dialect::huggingface;
}

Json config_to_json(const Mamba2Config& config, Dialect dialect, const std::string& dtype_name) {
  if (dialect == Dialect::state_spaces) return state_spaces_json(config);
  return dialect == Dialect::fork ? fork_json(config, dtype_name) : huggingface_json(config, dtype_name);
}

void save_checkpoint(const Mamba2Config& config, const TensorSource& source, const std::string& folder,
                     std::optional<DType> dtype, const std::function<void(std::uint64_t, std::uint64_t)>& on_progress) {
  const CanonicalTensors tensors(source);
  const Dialect dialect = dialect_to_save(config);
  const std::vector<SavedTensor> saved = tensors_to_save(config, tensors, dialect, dtype);
  std::vector<TensorSpec> specs;
  std::map<std::string, std::string> canonical_of;
  for (const SavedTensor& tensor : saved) {
    specs.push_back(tensor.spec);
    canonical_of[tensor.spec.name] = tensor.canonical;
  }
  require(!saved.empty(), "the model has no tensors to save");
  const Json json = config_to_json(config, dialect, torch_name(saved.front().spec.dtype));

  make_directories(folder);
  std::uint64_t total = 0, done = 0;
  for (const TensorSpec& spec : specs) total += spec.bytes();
  AtomicFile file(join_path(folder, "config.json"));
  file.write(json_text(json, 2) + "\n");
  file.sync();
  save_safetensors(folder, specs, [&](const TensorSpec& spec) {
    if (on_progress) on_progress(done, total);
    done += spec.bytes();
    return tensors.read(canonical_of.at(spec.name));
  });
  file.commit();
}

}  // namespace mamba2
