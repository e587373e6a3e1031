#include <gmock/gmock.h>

#include "support.h"
#include "tests/resident_memory.h"

/// Checkpoints that name, tie or shape their tensors in other ways, and those that are wrong.
namespace mamba2 {
namespace {

using test::EditedCheckpoint;
using test::same_bits;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

const std::vector<std::int32_t> ids{3, 1, 4, 1, 5, 9, 2, 6};

class Load : public test::FolderTest {
 protected:
  HostTensor logits(const EditedCheckpoint& checkpoint) const {
    checkpoint.write(path("model"));
    return logits_in(path("model"));
  }
  static HostTensor logits_in(const std::string& folder) {
    Mamba2ForCausalLM model = test::open_lm(folder, "reference");
    return test::logits_of(model, ids);
  }
  std::string error(const EditedCheckpoint& checkpoint) const {
    return test::error_of([&] { logits(checkpoint); });
  }

  EditedCheckpoint tied_{"hf-basic"};
  HostTensor tied_logits_ = logits_in(test::golden_folder("hf-basic"));
};

TEST_F(Load, TakesATiedHeadThatIsStoredToo) {
  tied_.copy("backbone.embeddings.weight", "lm_head.weight");
  EXPECT_TRUE(same_bits(logits(tied_), tied_logits_));
  EXPECT_TRUE(test::open_model(path("model"), "reference").config().tie_word_embeddings);
}

TEST_F(Load, UsesAStoredHeadThatDiffersThoughTheConfigSaysTied) {
  tied_.zero("lm_head.weight", DType::f32, {99, 32});
  const HostTensor got = logits(tied_);
  EXPECT_EQ(test::relative_error(got, HostTensor(DType::f32, got.view().shape)), 0);
  EXPECT_FALSE(test::open_model(path("model"), "reference").config().tie_word_embeddings);
}

TEST_F(Load, NeedsTheHeadOfAnUntiedModel) {
  tied_.set(R"({"tie_word_embeddings": false})");
  EXPECT_THAT(error(tied_), EndsWith("model.safetensors: tensor 'lm_head.weight' is missing, and the config says that "
                                     "the head is not tied to the embeddings"));
}

TEST_F(Load, TiesTheForksHeadThatIsNotStoredWhateverItsConfigSays) {
  EditedCheckpoint fork("fork-rope-dynamic");
  const HostTensor expected = logits_in(test::golden_folder("fork-rope-dynamic"));
  fork.set(R"({"tie_embedding_weights": false})");
  EXPECT_TRUE(same_bits(logits(fork), expected));
}

TEST_F(Load, TakesNamesUnderModel) {
  tied_.rename_all("backbone.", "model.backbone.");
  EXPECT_TRUE(same_bits(logits(tied_), tied_logits_));
}

TEST_F(Load, TakesTheNamesOfABackboneSavedAlone) {
  tied_.rename_all("backbone.", "");
  EXPECT_TRUE(same_bits(logits(tied_), tied_logits_));
}

TEST_F(Load, TakesMambaSsmsNameOfTheEmbeddings) {
  tied_.rename("backbone.embeddings.weight", "backbone.embedding.weight");
  EXPECT_TRUE(same_bits(logits(tied_), tied_logits_));
}

TEST_F(Load, RefusesOneWeightUnderTwoNames) {
  tied_.copy("backbone.norm_f.weight", "model.backbone.norm_f.weight");
  EXPECT_THAT(error(tied_), EndsWith("tensors 'backbone.norm_f.weight' and 'model.backbone.norm_f.weight' are the same "
                                     "weight"));
}

TEST_F(Load, RefusesABiasThatTheConfigDoesNotKnow) {
  tied_.zero("backbone.layers.1.mixer.in_proj.bias", DType::f32, {168});
  EXPECT_THAT(error(tied_), AllOf(HasSubstr("model.safetensors: tensor 'backbone.layers.1.mixer.in_proj.bias'"),
                                  HasSubstr("use_bias")));
}

TEST_F(Load, NamesAMissingTensorAndItsShape) {
  tied_.erase("backbone.layers.2.mixer.in_proj.weight");
  EXPECT_THAT(error(tied_), HasSubstr("model.safetensors: tensor 'backbone.layers.2.mixer.in_proj.weight' is missing, "
                                      "expected (168, 32) = (2*intermediate_size"));
}

TEST_F(Load, NamesATensorOfAnotherShapeAndBothShapes) {
  tied_.zero("backbone.layers.2.mixer.in_proj.weight", DType::f32, {166, 32});
  EXPECT_THAT(
      error(tied_),
      AllOf(HasSubstr("model.safetensors: tensor 'backbone.layers.2.mixer.in_proj.weight' is (166, 32), expected "
                      "(168, 32) = (2*intermediate_size + 2*n_groups*state_size + num_heads"),
            EndsWith("by the config"), Not(HasSubstr("\n"))));
}

TEST_F(Load, RefusesIntegersForWeights) {
  tied_.zero("backbone.norm_f.weight", DType::i32, {32});
  EXPECT_THAT(error(tied_),
              HasSubstr("tensor 'backbone.norm_f.weight' is i32, expected a floating-point or quantised dtype"));
}

TEST_F(Load, RefusesAClassifierWithoutAHead) {
  EXPECT_THAT(test::error_of([] {
                Mamba2ForSequenceClassification::from_pretrained(test::golden_folder("hf-basic"),
                                                                 {.device = "reference"});
              }),
              HasSubstr("model.safetensors: has no classification head"));
}

TEST_F(Load, TakesALinearClassificationHeadUnderEitherName) {
  tied_.set(R"({"num_labels": 3})");
  tied_.zero("score.weight", DType::f32, {3, 32});
  for (const char* name : {"score", "classifier"}) {
    tied_.rename_all("score.", std::string(name) + ".");
    tied_.write(path(name));
    Mamba2ForSequenceClassification model(test::open_model(path(name), "reference"));
    const std::vector<std::vector<std::int32_t>> one{ids};
    EXPECT_EQ(model.forward(one).logits, (std::vector<std::vector<double>>{{0, 0, 0}}));
  }
}

TEST_F(Load, RefusesAHeadThatHasAnotherNumberOfLabels) {
  tied_.zero("score.weight", DType::f32, {3, 32});
  EXPECT_THAT(error(tied_),
              HasSubstr("tensor 'score.weight' is (3, 32), expected (2, 32) = (num_labels, hidden_size)"));
}

TEST_F(Load, OfAConfigFarLargerThanItsFileFailsByTheFirstTensorThatDoesNotFit) {
  tied_.set(R"({"num_hidden_layers": 4096})");
  EXPECT_THAT(error(tied_), HasSubstr("tensor 'backbone.layers.3.norm.weight' is missing, expected 4096 layers"));
  tied_.set(R"({"num_hidden_layers": 3, "vocab_size": 2147483647})");
  EXPECT_THAT(error(tied_), HasSubstr("tensor 'backbone.embeddings.weight' is (99, 32), expected (2147483647, 32)"));
  tied_.set(R"({"vocab_size": 99, "expand": 2000000000, "num_heads": 8000000000})");
  EXPECT_THAT(error(tied_), HasSubstr("num_heads is 8000000000"));
  tied_.set(R"({"expand": 500000000, "num_heads": 2000000000})");
  EXPECT_THAT(error(tied_), HasSubstr("mixer.in_proj.weight' is (168, 32), expected (34000000032, 32)"));
}

TEST_F(Load, LeavesNoPagesOfTheFileInMemoryBesidePackedWeights) {
  const std::string folder = MAMBA2_SOURCE_DIR "/models/classics-5m";
  const std::int64_t before = test::resident_file_bytes();
  const Mamba2ForCausalLM model = test::open_lm(folder, "cpu", {.dtype = "q8_0"});
  constexpr std::int64_t file_bytes = 11649240;
  EXPECT_LT(test::resident_file_bytes() - before, file_bytes / 2);
}

TEST_F(Load, RefusesOptionsThatAreNone) {
  const std::string folder = test::golden_folder("hf-basic");
  EXPECT_THAT(test::error_of([&] { test::open_model(folder, "abacus"); }), HasSubstr("device is 'abacus'"));
  EXPECT_THAT(test::error_of([&] { test::open_model(folder, "reference", {.dtype = "i8"}); }),
              HasSubstr("dtype is 'i8', expected auto, f32, bf16, f16, q8_0, q4_0, q4_k or q6_k"));
  EXPECT_THAT(test::error_of([&] { test::open_model(folder, "reference", {.state_dtype = "f16"}); }),
              HasSubstr("state dtype is 'f16', expected f32, bf16 or bf16-stochastic"));
  EXPECT_THAT(test::error_of([&] { test::open_model(folder, "reference", {.gated_norm = "half"}); }),
              HasSubstr("gated norm is 'half'"));
}

TEST_F(Load, NamesAFolderWithoutConfig) {
  EXPECT_THAT(test::error_of([&] { test::open_model(path(""), "reference"); }),
              HasSubstr("holds neither config.json nor params.json"));
}

}  // namespace
}  // namespace mamba2
