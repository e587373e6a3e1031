#include "mamba2/model/save.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "mamba2/model/locate.h"
#include "support.h"

namespace mamba2 {
namespace {

using test::EditedCheckpoint;
using test::same_bits;
using ::testing::HasSubstr;

class SaveOf : public test::FolderTest, public ::testing::WithParamInterface<std::string> {
 protected:
  std::string original() const { return test::golden_folder(GetParam()); }
};

std::string readable(const ::testing::TestParamInfo<std::string>& info) {
  std::string text = info.param;
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

INSTANTIATE_TEST_SUITE_P(Golden, SaveOf, ::testing::ValuesIn(test::golden_cases_with("single.logits")), readable);

Dialect expected_dialect(const std::string& name) {
  if (name.starts_with("fork")) return Dialect::fork;
  for (const char* own :
       {"state-spaces-d-has-hdim", "state-spaces-d-ssm", "state-spaces-no-rmsnorm", "state-spaces-norm-before-gate"})
    if (name == own) return Dialect::state_spaces;
  return name == "state-spaces-hybrid" ? Dialect::fork : Dialect::huggingface;
}

TEST_P(SaveOf, EveryCaseLoadsAgainToTheSameBitsInTheDialectThatHoldsIt) {
  Mamba2ForCausalLM model = test::open_lm(original(), "reference");
  model.save_pretrained(path("saved"));
  Mamba2ForCausalLM saved = test::open_lm(path("saved"), "reference");
  EXPECT_EQ(name(saved.config().dialect), name(expected_dialect(GetParam())));
  const std::vector<std::int32_t> ids = test::Golden(GetParam()).integers("single.input_ids");
  EXPECT_TRUE(same_bits(test::logits_of(saved, ids), test::logits_of(model, ids)));
}

TEST_P(SaveOf, ASecondSaveIsTheFirst) {
  test::open_lm(original(), "reference").save_pretrained(path("first"));
  test::open_lm(path("first"), "reference").save_pretrained(path("second"));
  EXPECT_EQ(test::read_text(path("first/config.json")), test::read_text(path("second/config.json")));
  EXPECT_EQ(test::read_text(path("first/model.safetensors")), test::read_text(path("second/model.safetensors")));
}

TEST_P(SaveOf, EveryTensorIsRoundedToTheDtypeThatWasAskedFor) {
  const Mamba2ForCausalLM model = test::open_lm(original(), "reference");
  model.save_pretrained(path("kept"));
  const auto kept = open_tensors(path("kept"));
  for (const auto& [text, dtype] : {std::pair{"f32", DType::f32}, {"f16", DType::f16}, {"bf16", DType::bf16}}) {
    model.save_pretrained(path(text), text);
    const auto converted = open_tensors(path(text));
    for (const TensorInfo& info : kept->tensors()) {
      const HostTensor expected(dtype, info.shape);
      convert(kept->read(info.name), expected);
      EXPECT_TRUE(same_bits(converted->read(info.name), expected)) << info.name << " as " << text;
    }
    EXPECT_EQ(converted->tensors().size(), kept->tensors().size());
  }
  if (expected_dialect(GetParam()) != Dialect::state_spaces) {  // which has no word for it
    EXPECT_THAT(test::read_text(path("bf16/config.json")), HasSubstr(R"("torch_dtype": "bfloat16")"));
  }
}

class SaveOfClassifier : public SaveOf {};

INSTANTIATE_TEST_SUITE_P(Golden, SaveOfClassifier, ::testing::ValuesIn(test::golden_cases_with("classify.logits")),
                         readable);

TEST_P(SaveOfClassifier, LoadsAgainToTheSameLogits) {
  Mamba2ForSequenceClassification model(test::open_model(original(), "reference"));
  model.save_pretrained(path("saved"));
  Mamba2ForSequenceClassification saved(test::open_model(path("saved"), "reference"));
  const std::vector<std::vector<std::int32_t>> sequences{test::Golden(GetParam()).integers("classify.input_ids")};
  EXPECT_EQ(saved.forward(sequences).logits, model.forward(sequences).logits);
  EXPECT_EQ(saved.config().id2label, model.config().id2label);
  EXPECT_EQ(saved.config().num_labels, model.config().num_labels);
  EXPECT_EQ(name(saved.config().dialect), "fork");
}

using Save = test::FolderTest;

TEST_F(Save, KeepsTheConfigsFields) {
  EditedCheckpoint checkpoint("hf-groups");
  checkpoint.set(R"({"my_note": [1, "two"], "initializer_range": 0.25, "time_step_limit": [0.01, Infinity],
                     "eos_token_id": null, "chunk_size": 24, "hidden_act": "swish", "layer_norm_epsilon": 0.003})");
  checkpoint.write(path("in"));
  const Mamba2ForCausalLM model = test::open_lm(path("in"), "reference", {.gated_norm = "ungrouped"});
  model.save_pretrained(path("out"));
  const Mamba2Config& before = model.config();
  const Mamba2Config after = locate_model(path("out")).read_config();
  EXPECT_THAT(after.other_fields, HasSubstr(R"("my_note":[1,"two"])"));
  EXPECT_THAT(after.other_fields, HasSubstr(R"("initializer_range":0.25)"));
  EXPECT_EQ(after.time_step_limit, before.time_step_limit);
  EXPECT_EQ(after.eos_token_id, std::nullopt);
  EXPECT_EQ(after.chunk_size, 24);
  EXPECT_EQ(after.hidden_act_name, "swish");
  EXPECT_EQ(after.layer_norm_epsilon, 0.003);
  EXPECT_EQ(after.gated_norm, GatedNorm::ungrouped);
  EXPECT_FALSE(after.tie_word_embeddings);
}

TEST_F(Save, KeepsTheEpsilonOfTheGatedNormWhereItIsAnother) {
  EditedCheckpoint plain("hf-basic");
  plain.set(R"({"layer_norm_epsilon": 0.003})");
  plain.write(path("plain"));
  test::open_lm(path("plain"), "reference").save_pretrained(path("plain_saved"));
  EXPECT_EQ(locate_model(path("plain_saved")).read_config().gated_norm_epsilon, 0.003);

  EditedCheckpoint fork("fork-hybrid");
  fork.set(R"({"layer_norm_epsilon": 0.003, "gated_norm_epsilon": 0.002})");
  fork.write(path("fork"));
  test::open_lm(path("fork"), "reference").save_pretrained(path("fork_saved"));
  EXPECT_EQ(locate_model(path("fork_saved")).read_config().gated_norm_epsilon, 0.002);

  Mamba2Config config = locate_model(path("plain")).read_config();
  config.gated_norm_epsilon = 1e-5;
  EXPECT_EQ(dialect_to_save(config), Dialect::fork);
}

TEST_F(Save, LeavesOutATiedHeadAndKeepsOneThatDiffers) {
  EditedCheckpoint checkpoint("hf-basic");
  checkpoint.copy("backbone.embeddings.weight", "lm_head.weight");
  checkpoint.write(path("same"));
  test::open_lm(path("same"), "reference").save_pretrained(path("tied"));
  EXPECT_EQ(open_tensors(path("tied"))->find("lm_head.weight"), nullptr);
  checkpoint.zero("lm_head.weight", DType::f32, {99, 32});
  checkpoint.write(path("other"));
  test::open_lm(path("other"), "reference").save_pretrained(path("untied"));
  EXPECT_NE(open_tensors(path("untied"))->find("lm_head.weight"), nullptr);
  EXPECT_FALSE(locate_model(path("untied")).read_config().tie_word_embeddings);
}

TEST_F(Save, OverItsOwnFolderGivesTheSameModel) {
  EditedCheckpoint("hf-basic").write(path("model"));
  Mamba2ForCausalLM model = test::open_lm(path("model"), "reference");
  const std::vector<std::int32_t> ids{5, 6, 7};
  const HostTensor before = test::logits_of(model, ids);
  model.save_pretrained(path("model"));
  Mamba2ForCausalLM saved = test::open_lm(path("model"), "reference");
  EXPECT_TRUE(same_bits(test::logits_of(saved, ids), before));
  EXPECT_TRUE(same_bits(test::logits_of(model, ids), before));
}

TEST_F(Save, OfAnUngroupedNormThatMambaSsmsDialectCanNotSayIsAnErrorAndWritesNothing) {
  const Mamba2ForCausalLM model =
      test::open_lm(test::golden_folder("state-spaces-norm-before-gate"), "reference", {.gated_norm = "ungrouped"});
  EXPECT_THAT(test::error_of([&] { model.save_pretrained(path("saved")); }), HasSubstr("an ungrouped norm"));
  EXPECT_THAT(test::error_of([&] { open_tensors(path("saved")); }), HasSubstr(path("saved")));
}

}  // namespace
}  // namespace mamba2
