#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "tests/app/support.h"

namespace mamba2 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

const std::string night = "It was a dark night, and the";
const std::string after_night = " sun was shining in the sun.\n\n\"I am not going to sleep";

/// transformers' parameters as options.
std::vector<std::string> options_for(const Json& parameters) {
  std::vector<std::string> options;
  for (const auto& [name, value] : parameters.items()) {
    std::string option = "--" + name;
    std::replace(option.begin(), option.end(), '_', '-');
    options.push_back(option);
    if (!value.is_boolean()) options.push_back(value.dump());
  }
  return options;
}

/// The continuations and the batch of tests/data/golden/MODEL.json by the model in a folder.
void expect_golden_texts(const std::string& name, const std::string& folder) {
  const Json cases = read_json_file(golden(name + ".json"));
  for (const Json& expected : cases["generate"]) {
    std::vector<std::string> arguments = {"generate", expected["prompt"], "--model", folder};
    for (const std::string& option : options_for(expected["parameters"])) arguments.push_back(option);
    const std::vector<Json> results = run_json(arguments);
    ASSERT_EQ(results.size(), 1U);
    EXPECT_EQ(results[0]["prompt_ids"], expected["prompt_ids"]);
    EXPECT_EQ(results[0]["new_ids"], expected["new_ids"]) << expected["prompt"] << expected["parameters"];
    EXPECT_EQ(results[0]["text"], expected["text"]) << expected["prompt"] << expected["parameters"];
  }
  const Json& batch = cases["batched_left_padded"];
  std::vector<std::string> arguments = {"generate", "--model", folder, "--max-new-tokens",
                                        batch["max_new_tokens"].dump()};
  for (const std::string prompt : batch["prompts"]) arguments.push_back(prompt);
  std::vector<std::string> texts;
  for (const Json& result : run_json(arguments)) texts.push_back(result["text"]);
  EXPECT_EQ(Json(texts), batch["texts"]);
}

/// Folders of the models with golden texts: the one that ships, and classics-21m where the folder MAMBA2_TEST_MODELS of
/// the environment holds it.
std::vector<std::string> models() {
  std::vector<std::string> folders{classics_5m()};
  const char* more = std::getenv("MAMBA2_TEST_MODELS");
  const std::string larger = std::string(more == nullptr ? "" : more) + "/classics-21m";
  if (std::filesystem::exists(larger)) folders.push_back(larger);
  return folders;
}

class GenerateWith : public testing::TestWithParam<std::string> {};

TEST_P(GenerateWith, ContinuesTheGoldenPromptsAsTransformers) {
  expect_golden_texts(std::filesystem::path(GetParam()).filename(), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Models, GenerateWith, testing::ValuesIn(models()), [](const auto& tested) {
  std::string name = std::filesystem::path(tested.param).filename();
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(Generate, PrintsTheContinuationAlone) {
  const ProcessResult result = mamba2_command({"generate", night, "-n", "16"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, after_night + "\n");
  EXPECT_THAT(result.err, HasSubstr("tokens/s"));
}

TEST(Generate, PrintsTheSameTextWithoutStreaming) {
  EXPECT_EQ(mamba2_command({"generate", night, "-n", "16", "--no-stream"}).out, after_night + "\n");
}

TEST(Generate, HasTheFieldsOfTheContract) {
  const std::vector<Json> results = run_json({"generate", night, "-n", "2", "--num-beams", "2"});
  ASSERT_EQ(results.size(), 1U);
  EXPECT_THAT(keys(results[0]),
              ElementsAre("prompt", "prompt_ids", "new_ids", "text", "finish_reason", "score", "timings"));
  EXPECT_THAT(keys(results[0]["timings"]),
              ElementsAre("load_s", "prefill_s", "decode_s", "prefill_tokens_per_s", "decode_tokens_per_s"));
  EXPECT_EQ(results[0]["finish_reason"], "length");
}

TEST(Generate, ReadsThePromptFromStandardInput) {
  RunOptions options;
  options.input = night;
  EXPECT_EQ(mamba2_command({"generate", "-n", "16"}, options).out, after_night + "\n");
}

TEST(Generate, ReadsAPromptALine) {
  const TemporaryFolder folder;
  const std::string file = folder.write("prompts.txt", "The\n" + night + "\n");
  const std::vector<Json> results = run_json({"generate", "--prompts", file, "-n", "16"});
  ASSERT_EQ(results.size(), 2U);
  EXPECT_EQ(results[0]["prompt"], "The");
  EXPECT_EQ(results[1]["text"], after_night);
}

TEST(Generate, TakesRowsOfAnyLengthFromAnInputFile) {
  const TemporaryFolder folder;
  const std::string file =
      folder.write("input.json", R"({"input_ids": [[54], [806, 308, 260, 1204, 892, 13, 280, 264]]})");
  const std::vector<Json> results = run_json({"generate", "--input", file, "-n", "16"});
  ASSERT_EQ(results.size(), 2U);
  EXPECT_EQ(results[1]["prompt"], night);
  EXPECT_EQ(results[1]["text"], after_night);
}

TEST(Generate, LeavesOutWhatAnInputFilesMaskCovers) {
  const TemporaryFolder folder;
  const std::string file =
      folder.write("input.json", R"({"input_ids": [[-7, 1, 806, 308, 260, 1204, 892, 13, 280, 264]],
    "attention_mask": [[0, 0, 1, 1, 1, 1, 1, 1, 1, 1]]})");
  EXPECT_EQ(run_json({"generate", "--input", file, "-n", "16"}).at(0)["text"], after_night);
}

TEST(Generate, NeedsNoTokenizerForIds) {
  const TemporaryFolder folder;
  const Json expected = read_json_file(golden("state-spaces/golden.json"))["greedy"];
  const std::string file = folder.write("input.json", Json{{"input_ids", {expected["prompt_ids"]}}}.dump());
  const std::vector<Json> results =
      run_json({"generate", "--model", golden("state-spaces"), "--input", file, "--ignore-eos", "-n", "24"});
  EXPECT_EQ(results.at(0)["new_ids"], expected["new_ids"]);
}

TEST(Generate, EndsWithAStopString) {
  const std::vector<Json> results =
      run_json({"generate", night, "--stop", "moonshine", "--stop", "shining", "-n", "16"});
  EXPECT_EQ(results.at(0)["text"], " sun was shining");
  EXPECT_EQ(results.at(0)["finish_reason"], "stop");
}

TEST(Generate, TakesPromptsInBracketsAsTheyAre) {
  const std::vector<Json> results = run_json({"generate", "[one, two]", "-n", "1"});
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0]["prompt"], "[one, two]");
}

TEST(Generate, TakesPromptsThatLookLikeOptionsAfterTwoDashes) {
  const ProcessResult result = mamba2_command({"generate", "-n", "1", "--json", "--", "--seed"});
  EXPECT_EQ(json_lines(result.out).at(0)["prompt"], "--seed") << result.err;
}

TEST(Generate, TakesThePromptAfterALoneEarlyStopping) {
  EXPECT_EQ(run_json({"generate", "-n", "1", "--num-beams", "2", "--early-stopping", "The"}).at(0)["prompt"], "The");
}

TEST(Generate, NeverSaysABadWord) {
  const std::vector<Json> results = run_json({"generate", "--bad-words", " sun", night, "-n", "16"});
  ASSERT_EQ(results.size(), 1U);
  EXPECT_THAT(std::string(results[0]["text"]), testing::Not(HasSubstr(" sun")));
}

TEST(Generate, SamplesTheSameTextOnAnyNumberOfThreadsAndInAnyBatch) {
  const std::vector<std::string> sampled = {"--do-sample", "--seed", "7", "-n", "12"};
  auto texts = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "generate");
    arguments.insert(arguments.end(), sampled.begin(), sampled.end());
    std::vector<std::string> out;
    for (const Json& result : run_json(arguments)) out.push_back(result["text"]);
    return out;
  };
  const std::vector<std::string> alone = texts({night, "--threads", "1"});
  EXPECT_EQ(texts({night, "--threads", "2"}), alone);
  EXPECT_EQ(texts({"The", night, "Chapter I\n\n"}).at(1), alone.at(0));
}

TEST(Generate, ReturnsSeveralDifferentSamples) {
  const std::vector<Json> results =
      run_json({"generate", night, "--do-sample", "-s", "1", "--num-return-sequences", "3", "-n", "12"});
  ASSERT_EQ(results.size(), 3U);
  EXPECT_NE(results[0]["text"], results[1]["text"]);
  EXPECT_NE(results[1]["text"], results[2]["text"]);
}

TEST(Generate, WarnsOfSamplingOptionsWithoutSampling) {
  const ProcessResult result = mamba2_command({"generate", "The", "--temperature", "0.5", "-n", "1"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("'temperature' has no effect without do_sample"));
}

TEST(Generate, StartsAnEmptyPromptWithTheFirstToken) {
  const std::vector<Json> results = run_json({"generate", "", "-n", "2"});
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0]["prompt"], "");
  EXPECT_EQ(results[0]["new_ids"].size(), 2U);
}

TEST(Generate, AnswersAPromptOfInvalidUtf8WithValidJson) {
  const std::vector<Json> results = run_json({"generate", "caf\xE9 \xFF\xC3", "-n", "2"});
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0]["prompt"], "caf\uFFFD \uFFFD\uFFFD");
}

TEST(Generate, SaysWhenStandardOutputIsFull) {
  RunOptions options;
  options.stdout_is_full = true;
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"generate", "The", "-n", "1"}, {"generate", "The", "-n", "1", "--json"}, {"--help"}}) {
    const ProcessResult result = mamba2_command(arguments, options);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err, StartsWith("error: standard output can't be written"));
  }
}

}  // namespace
}  // namespace mamba2
