#include "mamba2/pipeline/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"
#include "mamba2/pipeline/auto.h"
#include "tests/temporary_folder.h"

namespace mamba2 {
namespace {

const std::string classics = MAMBA2_SOURCE_DIR "/models/classics-5m";
const std::string classifier = MAMBA2_SOURCE_DIR "/tests/data/golden/fork-classify-single-label";
const std::string night = "It was a dark night, and the";

GenerationConfig tokens(std::int64_t count) {
  GenerationConfig config;
  config.max_new_tokens = count;
  return config;
}

/// A classifier's folder with a tokenizer of the letters a to z, which are the ids from 5 on.
class ClassifierFolder {
 public:
  ClassifierFolder() {
    for (const auto& entry : std::filesystem::directory_iterator(classifier))
      folder_.copy(entry.path(), entry.path().filename());
    Json vocab = Json::object();
    for (int i = 0; i < 26; ++i) vocab[std::string(1, static_cast<char>('a' + i))] = 5 + i;
    const Json tokenizer = {{"version", "1.0"},
                            {"truncation", nullptr},
                            {"padding", nullptr},
                            {"added_tokens", Json::array()},
                            {"normalizer", nullptr},
                            {"pre_tokenizer", nullptr},
                            {"post_processor", nullptr},
                            {"decoder", nullptr},
                            {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
    folder_.write("tokenizer.json", tokenizer.dump());
  }
  std::string path() const { return folder_.path(); }

 private:
  test::TemporaryFolder folder_;
};

TEST(TextGenerationPipeline, ReturnsThePromptAndItsContinuation) {
  const auto generator = pipeline("text-generation", classics);
  const std::vector<PipelineOutput> outputs = (*generator)(night, tokens(16));
  ASSERT_EQ(outputs.size(), 1U);
  EXPECT_EQ(outputs[0].generated_text, night + " sun was shining in the sun.\n\n\"I am not going to sleep");
}

TEST(TextGenerationPipeline, ReturnsAsManyTextsAsAskedFor) {
  const auto generator = pipeline("text-generation", classics);
  GenerationConfig config = tokens(8);
  config.num_beams = 3;
  config.num_return_sequences = 3;
  const std::vector<PipelineOutput> outputs = (*generator)(night, config);
  ASSERT_EQ(outputs.size(), 3U);
  for (const PipelineOutput& output : outputs) EXPECT_THAT(output.generated_text, testing::StartsWith(night));
  EXPECT_NE(outputs[0].generated_text, outputs[1].generated_text);
}

TEST(TextGenerationPipeline, KeepsAPromptThatIsNoUtf8) {
  const auto generator = pipeline("text-generation", classics);
  EXPECT_THAT((*generator)("caf\xE9", tokens(1)).at(0).generated_text, testing::StartsWith("caf\xE9"));
}

TEST(TextClassificationPipeline, ReturnsTheLikeliestLabel) {
  const ClassifierFolder folder;
  const auto classify = pipeline("text-classification", folder.path());
  const std::vector<PipelineOutput> outputs = (*classify)("hello");
  ASSERT_EQ(outputs.size(), 1U);

  Mamba2ForSequenceClassification model = AutoModelForSequenceClassification::from_pretrained(folder.path());
  const std::vector<std::int32_t> ids = {12, 9, 16, 16, 19};
  const ClassificationOutput direct = model.forward({&ids, 1});
  const std::vector<double> scores =
      classification_scores(ProblemType::single_label_classification, direct.logits.front());
  const auto best = std::max_element(scores.begin(), scores.end());
  EXPECT_EQ(outputs[0].label, label_name(model.config(), best - scores.begin()));
  EXPECT_DOUBLE_EQ(outputs[0].score, *best);
}

TEST(Pipeline, NamesATaskItDoesNotKnow) {
  EXPECT_THAT([] { pipeline("translation\n", classics); },
              testing::ThrowsMessage<Error>(
                  testing::AllOf(testing::HasSubstr("translation\\x0a"), testing::HasSubstr("text-generation"))));
}

TEST(Pipeline, NamesAModelWithoutAClassificationHead) {
  EXPECT_THAT([] { pipeline("text-classification", classics); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("classics-5m")));
}

TEST(ClassificationScores, OfOneLabelAreASoftmax) {
  const std::vector<double> logits = {1000, 1000 + std::log(3.0)};
  EXPECT_THAT(classification_scores(ProblemType::single_label_classification, logits),
              testing::ElementsAre(testing::DoubleNear(0.25, 1e-12), testing::DoubleNear(0.75, 1e-12)));
}

TEST(ClassificationScores, OfSeveralLabelsAreASigmoidEach) {
  const std::vector<double> logits = {0, -1000, 1000};
  EXPECT_THAT(classification_scores(ProblemType::multi_label_classification, logits),
              testing::ElementsAre(0.5, 0.0, 1.0));
}

TEST(ClassificationScores, OfARegressionAreItsValues) {
  const std::vector<double> logits = {-7.5};
  EXPECT_THAT(classification_scores(ProblemType::regression, logits), testing::ElementsAre(-7.5));
}

TEST(LabelName, IsTheConfigsOrANumber) {
  Mamba2Config config;
  config.id2label[1] = "good";
  EXPECT_EQ(label_name(config, 0), "LABEL_0");
  EXPECT_EQ(label_name(config, 1), "good");
}

TEST(Continuation, IsWhatNewTokensAddToThePrompt) {
  const auto tokenizer = AutoTokenizer::from_pretrained(classics);
  const std::vector<std::int32_t> ids = tokenizer->encode(night, SpecialTokens::omit);
  EXPECT_EQ(continuation(*tokenizer, ids, ids.size() - 1), " the");
  EXPECT_EQ(continuation(*tokenizer, ids, ids.size()), "");
}

TEST(Continuation, LeavesOutIdsThatOnlyThePaddedVocabularyHas) {
  const auto tokenizer = AutoTokenizer::from_pretrained(classics);
  std::vector<std::int32_t> ids = tokenizer->encode(night, SpecialTokens::omit);
  ids.push_back(static_cast<std::int32_t>(tokenizer->vocab_size()));
  EXPECT_EQ(continuation(*tokenizer, ids, ids.size() - 2), " the");
}

}  // namespace
}  // namespace mamba2
