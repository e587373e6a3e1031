#include <gmock/gmock.h>

#include <cctype>
#include <limits>

#include "support.h"

namespace mamba2 {
namespace {

using test::config_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr const char* huggingface = R"({"model_type": "mamba2", "hidden_size": 32, "num_heads": 8, "head_dim": 8,
    "state_size": 16, "n_groups": 1, "num_hidden_layers": 2, "vocab_size": 99})";
constexpr const char* fork = R"({"model_type": "mamba2", "hidden_size": 32, "mamba2_num_heads": 8, "mamba2_head_dim": 8,
    "state_size": 16, "num_hidden_layers": 3, "vocab_size": 64, "attention_layers_idx": [1], "num_attention_heads": 4,
    "num_key_value_heads": 2, "attention_head_dim": 12, "rope_emb_dim": 8})";
constexpr const char* state_spaces = R"({"d_model": 32, "n_layer": 3, "vocab_size": 59, "pad_vocab_size_multiple": 16,
    "ssm_cfg": {"layer": "Mamba2", "d_state": 16, "headdim": 8}, "attn_layer_idx": [2],
    "attn_cfg": {"causal": true, "num_heads": 4, "rotary_emb_dim": 8}})";
constexpr const char* codestral = R"({"dim": 64, "n_layers": 2, "vocab_size": 64, "n_groups": 2})";

TEST(Dialect, IsRecognisedByContent) {
  EXPECT_EQ(config_of(huggingface).dialect, Dialect::huggingface);
  EXPECT_EQ(config_of(fork).dialect, Dialect::fork);
  EXPECT_EQ(config_of(state_spaces).dialect, Dialect::state_spaces);
  EXPECT_EQ(config_of(codestral).dialect, Dialect::codestral);
}

TEST(Dialect, IsHuggingFaceWhereAConvertedConfigStillHoldsFieldsOfMambaSsm) {
  EXPECT_EQ(config_of(huggingface, R"({"d_model": 32, "ssm_cfg": {}})").dialect, Dialect::huggingface);
}

TEST(Dialect, IsHuggingFaceWhereNothingButTheModelTypeIsSaid) {
  EXPECT_EQ(config_of(R"({"model_type": "mamba2"})").dialect, Dialect::huggingface);
}

TEST(Dialect, OfAnotherModelIsAnErrorThatNamesIt) {
  EXPECT_EQ(test::error_of([] { config_of(huggingface, R"({"model_type": "llama"})"); }),
            "config.json: model_type is 'llama', expected mamba2");
  EXPECT_THAT(test::error_of([] { config_of(R"({"n_embd": 768})"); }), HasSubstr("is no Mamba-2 config"));
  EXPECT_THAT(test::error_of([] { config_of(R"({"d_model": 768, "n_layer": 24, "ssm_cfg": {}})"); }),
              HasSubstr("layer is 'Mamba1'"));
}

TEST(Defaults, AreTransformersInItsDialect) {
  const Mamba2Config c = config_of(R"({"model_type": "mamba2"})");
  EXPECT_EQ(c.vocab_size, 32768);
  EXPECT_EQ(c.hidden_size, 4096);
  EXPECT_EQ(c.num_hidden_layers, 64);
  EXPECT_EQ(c.num_heads, 128);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.n_groups, 8);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.eos_token_id, 2);
  EXPECT_EQ(c.pad_token_id, 1);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_EQ(c.time_step_limit, TimeStepLimit{});
}

TEST(Defaults, AreTheForksInItsDialect) {
  const Mamba2Config c = config_of(R"({"use_mamba2_bias": false})");
  EXPECT_EQ(c.vocab_size, 50280);
  EXPECT_EQ(c.hidden_size, 768);
  EXPECT_EQ(c.num_hidden_layers, 24);
  EXPECT_EQ(c.num_heads, 24);
  EXPECT_EQ(c.n_groups, 1);
  EXPECT_EQ(c.eos_token_id, 0);
  EXPECT_TRUE(c.tie_word_embeddings);
}

TEST(Defaults, AreMambaSsmsInItsDialect) {
  const Mamba2Config c = config_of(R"({"d_model": 768, "ssm_cfg": {"layer": "Mamba2"}})");
  EXPECT_EQ(c.vocab_size, 50280);  // 50277 rounded up to a multiple of 8
  EXPECT_EQ(c.num_hidden_layers, 64);
  EXPECT_EQ(c.state_size, 128);
  EXPECT_EQ(c.num_heads, 24);
  EXPECT_EQ(c.n_groups, 1);
  EXPECT_TRUE(c.tie_word_embeddings);
  EXPECT_EQ(c.eos_token_id, std::nullopt);
}

TEST(Defaults, AreMambaCodestralsInItsDialect) {
  const Mamba2Config c = config_of(R"({"dim": 4096, "n_layers": 64})");
  EXPECT_EQ(c.vocab_size, 32768);
  EXPECT_EQ(c.num_heads, 128);
  EXPECT_EQ(c.n_groups, 8);
  EXPECT_FALSE(c.tie_word_embeddings);
}

TEST(Tokens, MayBeNullNegativeOrAList) {
  const Mamba2Config c =
      config_of(huggingface, R"({"bos_token_id": null, "eos_token_id": [7, 8], "pad_token_id": -1})");
  EXPECT_EQ(c.bos_token_id, std::nullopt);
  EXPECT_EQ(c.eos_token_id, 7);
  EXPECT_EQ(c.pad_token_id, std::nullopt);
}

TEST(TimeStepLimit, TakesEveryFormOfInfinity) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const char* form : {"[0.5, Infinity]", R"([0.5, {"__float__": "Infinity"}])"}) {
    const Mamba2Config c = config_of(huggingface, std::string(R"({"time_step_limit": )") + form + "}");
    EXPECT_EQ(c.time_step_limit, (TimeStepLimit{0.5, infinity})) << form;
  }
}

TEST(HeadCount, FollowsFromTheWidthsWhereItIsAbsent) {
  EXPECT_EQ(config_of(R"({"model_type": "mamba2", "hidden_size": 48, "head_dim": 6, "n_groups": 1})").num_heads, 16);
}

TEST(AttentionLayers, AreASetInTheirOrder) {
  EXPECT_THAT(config_of(fork, R"({"attention_layers_idx": [2, 0, 2]})").attention_layers_idx, ElementsAre(0, 2));
}

TEST(UnknownFields, WithoutEffectAreKept) {
  EXPECT_THAT(config_of(huggingface, R"({"my_note": "kept", "initializer_range": 0.25})").other_fields,
              ::testing::AllOf(HasSubstr(R"("my_note":"kept")"), HasSubstr(R"("initializer_range":0.25)")));
}

TEST(NormBeforeGate, CountsInMambaSsmsDialectAlone) {
  EXPECT_EQ(config_of(huggingface, R"({"norm_before_gate": true})").gate_order, GateOrder::gate_first);
  EXPECT_EQ(config_of(state_spaces, R"({"ssm_cfg.norm_before_gate": true})").gate_order, GateOrder::norm_first);
}

TEST(GatedNormEpsilon, FollowsLayerNormEpsilonInTransformersAndIsFixedInTheFork) {
  EXPECT_EQ(config_of(huggingface, R"({"layer_norm_epsilon": 0.003})").gated_norm_epsilon, 0.003);
  EXPECT_EQ(config_of(fork, R"({"layer_norm_epsilon": 0.003})").gated_norm_epsilon, 1e-5);
  EXPECT_EQ(config_of(fork, R"({"layer_norm_epsilon": 0.003})").layer_norm_epsilon, 0.003);
}

/// A change that makes a config wrong, and what the error must say.
struct Wrong {
  const char* base;
  const char* change;
  const char* message;
};

class WrongConfig : public ::testing::TestWithParam<Wrong> {};

/// The change in letters and digits, after a number that keeps names apart.
std::string readable(const ::testing::TestParamInfo<Wrong>& info) {
  std::string text = std::to_string(info.index) + "_";
  for (const char* c = info.param.change; *c != 0; ++c)
    if (std::isalnum(static_cast<unsigned char>(*c)) != 0 || *c == '_') text += *c;
  return text;
}

TEST_P(WrongConfig, IsOneErrorThatNamesTheField) {
  const std::string message = test::error_of([] { config_of(GetParam().base, GetParam().change); });
  EXPECT_THAT(message, StartsWith("config.json: "));
  EXPECT_THAT(message, HasSubstr(GetParam().message));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
}

INSTANTIATE_TEST_SUITE_P(
    Types, WrongConfig,
    ::testing::Values(
        Wrong{huggingface, R"({"hidden_size": "32"})", "hidden_size is \"32\", expected an integer"},
        Wrong{huggingface, R"({"hidden_size": 32.5})", "hidden_size is 32.5, expected an integer"},
        Wrong{huggingface, R"({"num_hidden_layers": true})", "num_hidden_layers is true, expected an integer"},
        Wrong{huggingface, R"({"use_bias": 1})", "use_bias is 1, expected true or false"},
        Wrong{huggingface, R"({"layer_norm_epsilon": "1e-5"})", "layer_norm_epsilon is \"1e-5\", expected a number"},
        Wrong{huggingface, R"({"hidden_act": 3})", "hidden_act is 3, expected a string"},
        Wrong{huggingface, R"({"hidden_act": "mish"})", "hidden_act is 'mish', expected silu"},
        Wrong{huggingface, R"({"hidden_act": "a\nb"})", "hidden_act is 'a\\x0ab'"},
        Wrong{huggingface, R"({"time_step_limit": 3})", "time_step_limit is 3, expected [minimum, maximum]"},
        Wrong{huggingface, R"({"time_step_limit": [0.2, 0.1]})", "time_step_limit is [0.2,0.1]"},
        Wrong{huggingface, R"({"time_step_limit": [0.0, NaN]})", "time_step_limit"},
        Wrong{huggingface, R"({"eos_token_id": "end"})", "eos_token_id is \"end\", expected a token id"},
        Wrong{huggingface, R"({"id2label": ["a"]})", "id2label is [\"a\"], expected an object"},
        Wrong{huggingface, R"({"id2label": {"one": "a"}})", "id2label holds 'one'"},
        Wrong{huggingface, R"({"problem_type": "ranking"})", "problem_type is 'ranking'"},
        Wrong{huggingface, R"({"gated_norm": "half"})", "gated_norm is 'half'"},
        Wrong{fork, R"({"attention_layers_idx": 1})", "attention_layers_idx is 1, expected a list"},
        Wrong{fork, R"({"attention_layers_idx": ["a"]})", "attention_layers_idx holds \"a\""},
        Wrong{fork, R"({"rope_scaling": "linear"})", "rope_scaling: is \"linear\", expected an object"},
        Wrong{state_spaces, R"({"ssm_cfg": []})", "ssm_cfg: is [], expected an object"}),
    readable);

INSTANTIATE_TEST_SUITE_P(
    Ranges, WrongConfig,
    ::testing::Values(
        Wrong{huggingface, R"({"hidden_size": 0})", "hidden_size is 0, expected 1 to"},
        Wrong{huggingface, R"({"hidden_size": -32})", "hidden_size is -32, expected 1 to"},
        Wrong{huggingface, R"({"vocab_size": 18446744073709551615})", "vocab_size is 18446744073709551615"},
        Wrong{huggingface, R"({"vocab_size": 1e300})", "vocab_size is 1e+300"},
        Wrong{huggingface, R"({"num_hidden_layers": 65536})", "num_hidden_layers is 65536, expected 0 to 4096"},
        Wrong{huggingface, R"({"conv_kernel": 0})", "conv_kernel is 0"},
        Wrong{huggingface, R"({"conv_kernel": 1000000})", "conv_kernel is 1000000"},
        Wrong{huggingface, R"({"chunk_size": 0})", "chunk_size is 0"},
        Wrong{huggingface, R"({"layer_norm_epsilon": 0})", "layer_norm_epsilon is 0"},
        Wrong{huggingface, R"({"layer_norm_epsilon": Infinity})", "layer_norm_epsilon is inf"},
        Wrong{huggingface, R"({"num_labels": 0})", "num_labels is 0"},
        Wrong{huggingface, R"({"state_size": 2147483647, "n_groups": 8})", "2*n_groups*state_size"},
        Wrong{fork, R"({"attention_conv_kernel": 2147483647})", "attention_conv_kernel is 2147483647"},
        Wrong{fork, R"({"num_attention_heads": 0})", "num_attention_heads is 0"},
        Wrong{fork, R"({"mlp_padding_size": 0})", "mlp_padding_size is 0"},
        Wrong{fork, R"({"mlp_intermediate_size": -1})", "mlp_intermediate_size is -1"},
        Wrong{fork, R"({"rope_theta": 0})", "rope_theta is 0"},
        Wrong{fork, R"({"rope_scaling": {"type": "linear", "factor": -2}})", "rope_scaling: factor is -2"},
        Wrong{codestral, R"({"n_layers": -1})", "n_layers is -1"},
        Wrong{state_spaces, R"({"pad_vocab_size_multiple": 0})", "pad_vocab_size_multiple is 0"}),
    readable);

INSTANTIATE_TEST_SUITE_P(
    Fits, WrongConfig,
    ::testing::Values(Wrong{huggingface, R"({"num_heads": 7})", "num_heads * head_dim is 7 * 8"},
                      Wrong{huggingface, R"({"n_groups": 3})", "n_groups is 3, expected a divisor of num_heads = 8"},
                      Wrong{huggingface, R"({"intermediate_size": 63})", "intermediate_size is 63"},
                      Wrong{fork, R"({"num_key_value_heads": 3})", "num_key_value_heads is 3, expected a divisor"},
                      Wrong{fork, R"({"rope_emb_dim": 14})", "the rotary dimension is 14"},
                      Wrong{fork, R"({"rope_emb_dim": 3})", "the rotary dimension is 3"},
                      Wrong{fork, R"({"rope_emb_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2}})",
                            "the rotary dimension is 2, expected 4 or more"},
                      Wrong{fork, R"({"attention_layers_idx": [3]})", "the attention layers hold 3"},
                      Wrong{fork, R"({"attention_layers_idx": [-1]})", "the attention layers hold -1"},
                      Wrong{state_spaces, R"({"ssm_cfg.d_ssm": 65})", "ssm_cfg: d_ssm is 65, expected at most"},
                      Wrong{state_spaces, R"({"ssm_cfg.headdim": 7})", "ssm_cfg: headdim is 7, expected a divisor"},
                      Wrong{state_spaces, R"({"attn_cfg.num_heads": 5})", "attn_cfg: num_heads is 5"},
                      Wrong{codestral, R"({"dim": 63})", "dim is 63"}),
    readable);

INSTANTIATE_TEST_SUITE_P(
    Unsupported, WrongConfig,
    ::testing::Values(
        Wrong{huggingface, R"({"quantization_config": {"bits": 4}})", "quantization_config is {\"bits\":4}"},
        Wrong{fork, R"({"rope_scaling": {"type": "yarn", "factor": 2}})", "rope_scaling: type is 'yarn'"},
        Wrong{fork, R"({"rope_scaling": {"type": "linear", "beta": 2}})", "rope_scaling: beta is not supported"},
        Wrong{state_spaces, R"({"rms_norm": false})", "rms_norm is false, only true is supported"},
        Wrong{codestral, R"({"rms_norm": false})", "rms_norm is false, only true is supported"},
        Wrong{state_spaces, R"({"ssm_cfg.layer": "Mamba1"})", "ssm_cfg: layer is 'Mamba1'"},
        Wrong{state_spaces, R"({"ssm_cfg.new_trick": 1})", "ssm_cfg: new_trick is not supported"},
        Wrong{state_spaces, R"({"attn_cfg.new_trick": 1})", "attn_cfg: new_trick is not supported"},
        Wrong{state_spaces, R"({"attn_cfg.mlp_dim": 64})", "attn_cfg: mlp_dim is 64, only 0"},
        Wrong{state_spaces, R"({"attn_cfg.rotary_emb_interleaved": true})", "attn_cfg: rotary_emb_interleaved is true"},
        Wrong{state_spaces, R"({"attn_cfg.causal": false})", "attn_cfg: causal is false"}),
    readable);

TEST(Config, ThatIsNoObjectIsAnError) {
  EXPECT_EQ(test::error_of([] { config_of("[1, 2]"); }), "config.json: is [1,2], expected an object");
}

}  // namespace
}  // namespace mamba2
