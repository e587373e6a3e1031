#include "mamba2/model/save_gguf.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "mamba2/base/file.h"
#include "mamba2/model/load.h"
#include "mamba2/model/locate.h"
#include "support.h"

namespace mamba2 {
namespace {

using test::Golden;
using test::relative_error;
using ::testing::HasSubstr;

std::vector<SavedGgufTensor> save(const std::string& folder, const std::string& out,
                                  std::optional<DType> dtype = std::nullopt) {
  const ModelFiles files = locate_model(folder);
  const auto source = open_tensors(files.weights);
  Mamba2Config config = files.read_config();
  adjust_to_tensors(config, CanonicalTensors(*source));
  GgufMetadataBuilder metadata = config_to_gguf(config, dtype);
  metadata.set_text("tokenizer.ggml.model", "no_vocab");
  return save_gguf(config, *source, out, metadata, {.dtype = dtype, .threads = 2, .on_progress = {}});
}

class SaveGguf : public test::FolderTest {
 protected:
  std::string error(const std::string& folder, std::optional<DType> dtype = std::nullopt) const {
    std::string message = test::error_of([&] { save(folder, path("m.gguf"), dtype); });
    EXPECT_FALSE(file_exists(path("m.gguf")));
    return message;
  }
};

std::string readable(const ::testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class SaveGgufOf : public SaveGguf, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Golden, SaveGgufOf,
                         ::testing::Values("hf-basic", "hf-groups", "hf-bf16", "hf-f16-sharded", "hf-long",
                                           "state-spaces", "codestral-consolidated"),
                         readable);

/// A_log is rounded to f32 once more than the checkpoint says; all else is the same.
TEST_P(SaveGgufOf, TheModelSaysTheSame) {
  const std::string folder = test::golden_folder(GetParam());
  save(folder, path("m.gguf"));
  const std::vector<std::int32_t> ids = Golden(GetParam()).integers("single.input_ids");
  Mamba2ForCausalLM saved = test::open_lm(path("m.gguf"), "reference_f64");
  Mamba2ForCausalLM original = test::open_lm(folder, "reference_f64");
  EXPECT_LE(relative_error(test::logits_of(saved, ids), test::logits_of(original, ids)), 1e-6);
}

/// A = -exp(A_log) in f32 is off by 2^-25 of itself at most, so A_log by 2^-25 and its own rounding.
TEST_P(SaveGgufOf, TheWayBackGivesTheSameTensors) {
  const std::string folder = test::golden_folder(GetParam());
  save(folder, path("m.gguf"));
  test::open_lm(path("m.gguf"), "reference").save_pretrained(path("back"));
  const auto original = open_tensors(folder), back = open_tensors(path("back"));
  const CanonicalTensors before(*original), after(*back);
  for (const auto& [name, info] : before.all()) {
    SCOPED_TRACE(name);
    if (name == "lm_head.weight" && after.find(name) == nullptr) continue;  // it was tied
    const HostTensor expected(DType::f32, info->shape), got(DType::f32, info->shape);
    convert(before.read(name), expected);
    convert(after.read(name), got);
    if (name.ends_with("A_log")) {
      for (std::size_t i = 0; i < expected.span<float>().size(); ++i) {
        const float want = expected.span<float>()[i];
        EXPECT_NEAR(got.span<float>()[i], want, 0x1p-24F * std::max(1.0F, std::abs(want)));
      }
    } else {
      EXPECT_TRUE(test::same_bits(got, expected));
    }
  }
}

TEST_F(SaveGguf, HoldsWhatAnotherWriterMadeOfTheSameModel) {
  save(test::golden_folder("hf-groups"), path("m.gguf"), DType::q8_0);
  const auto ours = open_tensors(path("m.gguf"));
  const auto theirs = open_tensors(MAMBA2_SOURCE_DIR "/tests/data/gguf/hf-groups-q8_0.gguf");
  EXPECT_EQ(ours->tensors().size(), theirs->tensors().size());
  for (const TensorInfo& info : theirs->tensors()) {
    SCOPED_TRACE(info.name);
    ASSERT_NE(ours->find(info.name), nullptr);
    if (!info.name.ends_with("A_log")) {  // theirs went through exp in f32
      EXPECT_TRUE(test::same_bits(ours->read(info.name), theirs->read(info.name)));
    }
  }
}

TEST_F(SaveGguf, KeepsQuantisedTensorsBitForBitWhereNoDtypeIsAskedFor) {
  const std::string fixture = MAMBA2_SOURCE_DIR "/tests/data/gguf/hf-groups-q8_0.gguf";
  const auto saved = save(fixture, path("m.gguf"));
  for (const SavedGgufTensor& tensor : saved) EXPECT_LE(tensor.max_error, 0x1p-22 * tensor.rms) << tensor.name;
  const auto before = open_tensors(fixture), after = open_tensors(path("m.gguf"));
  const char* name = "backbone.layers.0.mixer.in_proj.weight";
  EXPECT_EQ(after->read(name).dtype, DType::q8_0);
  EXPECT_TRUE(test::same_bits(after->read(name), before->read(name)));
}

TEST_F(SaveGguf, ReportsTheErrorOfEveryTensor) {
  for (const SavedGgufTensor& tensor : save(test::golden_folder("hf-basic"), path("m.gguf"), DType::q8_0)) {
    SCOPED_TRACE(tensor.name);
    const bool is_matrix = tensor.dtype == DType::q8_0;
    EXPECT_EQ(is_matrix, tensor.name == "token_embd.weight" || tensor.name.ends_with("ssm_in.weight") ||
                             tensor.name.ends_with("ssm_out.weight"));
    EXPECT_EQ(tensor.rms_error > 0, is_matrix);
    // half a step of the largest of 32 values, which is at most some four times their rms: 4 / 127 / 2
    EXPECT_LE(tensor.rms_error, 0.016 * tensor.rms);
    EXPECT_GE(tensor.max_error, tensor.rms_error);
  }
}

TEST_F(SaveGguf, WritesTheSameBytesWithAnyNumberOfThreads) {
  const ModelFiles files = locate_model(test::golden_folder("hf-groups"));
  const auto source = open_tensors(files.weights);
  for (const int threads : {1, 3})
    save_gguf(files.read_config(), *source, path(std::to_string(threads)),
              config_to_gguf(files.read_config(), DType::q8_0),
              {.dtype = DType::q8_0, .threads = threads, .on_progress = {}});
  EXPECT_EQ(test::read_text(path("1")), test::read_text(path("3")));
}

TEST_F(SaveGguf, GivesAModelWithoutAConvolutionBiasOneOfZeros) {
  test::EditedCheckpoint checkpoint("hf-basic");
  checkpoint.set(R"({"use_conv_bias": false})");
  for (int i = 0; i < 8; ++i) checkpoint.erase(fmt::format("backbone.layers.{}.mixer.conv1d.bias", i));
  checkpoint.write(path("model"));
  save(path("model"), path("m.gguf"));
  const std::vector<std::int32_t> ids = Golden("hf-basic").integers("single.input_ids");
  Mamba2ForCausalLM saved = test::open_lm(path("m.gguf"), "reference_f64");
  Mamba2ForCausalLM original = test::open_lm(path("model"), "reference_f64");
  EXPECT_LE(relative_error(test::logits_of(saved, ids), test::logits_of(original, ids)), 1e-6);
}

TEST_F(SaveGguf, NamesTheFieldThatGgufHasNoWordFor) {
  for (const auto& [model, field] : {std::pair{"fork-hybrid", "attention_layers_idx"},
                                     {"state-spaces-hybrid", "attention_layers_idx"},
                                     {"fork-classify-regression", "Mamba2ForSequenceClassification"},
                                     {"state-spaces-d-ssm", "d_mlp"},
                                     {"state-spaces-d-has-hdim", "D_has_hdim"},
                                     {"state-spaces-no-rmsnorm", "rmsnorm"},
                                     {"state-spaces-norm-before-gate", "norm_before_gate"},
                                     {"hf-gelu", "hidden_act is 'gelu'"},
                                     {"hf-odd", "use_bias"},
                                     {"hf-time-step-limit", "time_step_limit is [0.05, 0.2]"}})
    EXPECT_THAT(error(test::golden_folder(model)), HasSubstr(field)) << model;
}

TEST_F(SaveGguf, RefusesAClassificationHeadWhateverTheConfigSays) {
  test::EditedCheckpoint checkpoint("hf-basic");
  checkpoint.zero("score.weight", DType::f32, {2, 32});
  checkpoint.write(path("model"));
  EXPECT_THAT(error(path("model")), HasSubstr("tensor 'score.weight': a classification head"));
}

TEST_F(SaveGguf, NamesTheTensorWhoseValuesADtypeCantHold) {
  test::EditedCheckpoint checkpoint("hf-basic");
  const std::string name = "backbone.layers.0.mixer.out_proj.weight";
  checkpoint.at(name).as<float>()[5] = 1e6F;
  checkpoint.write(path("model"));
  EXPECT_THAT(error(path("model"), DType::f16), HasSubstr("tensor 'blk.0.ssm_out.weight' holds 1000000, which f16"));
  EXPECT_THAT(error(path("model"), DType::q8_0), HasSubstr("tensor 'blk.0.ssm_out.weight': 1000000 can't"));
  save(path("model"), path("m.gguf"), DType::bf16);
}

}  // namespace
}  // namespace mamba2
