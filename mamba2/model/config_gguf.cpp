#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"
#include "mamba2/base/gguf_metadata.h"
#include "mamba2/model/config.h"

/// The keys are those of llama.cpp's mamba2 architecture.  What they can't say has one value there: the convolution has
/// a bias and no other projection has one, SiLU, no limit to the time step, the gated norm taken per group.
namespace mamba2 {
namespace {

std::int64_t required_size(const GgufMetadata& metadata, std::string_view key) {
  const auto value = metadata.integer(key);
  require(value.has_value(), "{}: metadata key '{}' is missing", metadata.source(), key);
  require(*value >= 1 && *value <= 2147483647, "{}: metadata key '{}' is {}, expected 1 to 2147483647",
          metadata.source(), key, *value);
  return *value;
}

/// Embeddings may have more rows than there are tokens; the file says so where they do.
std::int64_t embedding_rows(const GgufMetadata& metadata) {
  if (metadata.has("mamba2.vocab_size")) return required_size(metadata, "mamba2.vocab_size");
  const auto tokens = metadata.count("tokenizer.ggml.tokens");
  require(tokens.has_value(), "{}: neither 'mamba2.vocab_size' nor 'tokenizer.ggml.tokens' is there",
          metadata.source());
  return static_cast<std::int64_t>(*tokens);
}

/// The decimal number that an f32 was written from: 1e-5, not 9.99999974737875163555e-06.
double shortest(double value) {
  const auto narrow = static_cast<float>(value);
  return static_cast<double>(narrow) == value ? std::stod(fmt::format("{}", narrow)) : value;
}

Json token(const GgufMetadata& metadata, std::string_view key) {
  const auto id = metadata.integer(key);
  return id ? Json(*id) : Json(nullptr);
}

}  // namespace

Mamba2Config Mamba2Config::from_gguf(const GgufMetadata& metadata) {
  const std::string& source = metadata.source();
  const auto architecture = metadata.text("general.architecture");
  require(architecture.has_value(), "{}: metadata key 'general.architecture' is missing", source);
  require(*architecture == "mamba2", "{}: general.architecture is '{}', expected mamba2", source,
          printable(*architecture));
  const std::int64_t width = required_size(metadata, "mamba2.ssm.inner_size");
  const std::int64_t heads = required_size(metadata, "mamba2.ssm.time_step_rank");
  const std::int64_t hidden_size = required_size(metadata, "mamba2.embedding_length");
  require(width % heads == 0, "{}: mamba2.ssm.inner_size is {}, expected a multiple of mamba2.ssm.time_step_rank = {}",
          source, width, heads);
  require(width % hidden_size == 0,
          "{}: mamba2.ssm.inner_size is {}, expected a multiple of mamba2.embedding_length = {}", source, width,
          hidden_size);
  const double epsilon = shortest(metadata.number("mamba2.attention.layer_norm_rms_epsilon").value_or(1e-5));
  const Json fields = {{"model_type", "mamba2"},
                       {"architectures", Json::array({"Mamba2ForCausalLM"})},
                       {"vocab_size", embedding_rows(metadata)},
                       {"hidden_size", hidden_size},
                       {"num_hidden_layers", required_size(metadata, "mamba2.block_count")},
                       {"state_size", required_size(metadata, "mamba2.ssm.state_size")},
                       {"expand", width / hidden_size},
                       {"num_heads", heads},
                       {"head_dim", width / heads},
                       {"n_groups", required_size(metadata, "mamba2.ssm.group_count")},
                       {"conv_kernel", required_size(metadata, "mamba2.ssm.conv_kernel")},
                       {"layer_norm_epsilon", epsilon},
                       {"use_conv_bias", true},
                       {"tie_word_embeddings", true},  // until the file shows a head of its own
                       {"bos_token_id", token(metadata, "tokenizer.ggml.bos_token_id")},
                       {"eos_token_id", token(metadata, "tokenizer.ggml.eos_token_id")},
                       {"pad_token_id", token(metadata, "tokenizer.ggml.padding_token_id")}};
  Mamba2Config config = from_json(fields, source);
  config.dialect = Dialect::gguf;
  return config;
}

}  // namespace mamba2
