// The shipped model's continuations against transformers'.

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "mamba2/base/json.h"
#include "mamba2/generate/generate.h"
#include "mamba2/model/modeling_mamba2.h"
#include "mamba2/tokenizer/tokenizer.h"

namespace mamba2 {
namespace {

using Ids = std::vector<std::int32_t>;

/// The shipped model and its golden file; MAMBA2_CLASSICS_MODEL and MAMBA2_CLASSICS_GOLDEN name others.
std::string path_or(const char* variable, const char* otherwise) {
  const char* path = std::getenv(variable);
  return path != nullptr ? path : otherwise;
}
const std::string folder = path_or("MAMBA2_CLASSICS_MODEL", MAMBA2_SOURCE_DIR "/models/classics-5m");
const std::string golden_file =
    path_or("MAMBA2_CLASSICS_GOLDEN", MAMBA2_SOURCE_DIR "/tests/data/golden/classics-5m.json");

class ClassicsContinuation : public testing::Test {
 protected:
  ClassicsContinuation()
      : model(Mamba2ForCausalLM::from_pretrained(folder, {.device = "reference"})),
        tokenizer(Tokenizer::from_pretrained(folder)),
        golden(read_json_file(golden_file)) {}

  GenerationConfig config_of(const Json& parameters) const {
    GenerationConfig config = GenerationConfig::from_json(parameters, "golden");
    config.fill_from(GenerationConfig::from_folder(folder));
    config.fill_from(GenerationConfig::from_model_config(model.config()));
    return config;
  }

  Mamba2ForCausalLM model;
  std::unique_ptr<const Tokenizer> tokenizer;
  Json golden;
};

TEST_F(ClassicsContinuation, OfEveryKindIsTransformers) {
  for (const Json& one : golden["generate"]) {
    const std::vector<Ids> prompts{one["prompt_ids"].get<Ids>()};
    const GenerateOutput output = generate(model, prompts, config_of(one["parameters"]));
    EXPECT_EQ(output.results[0].new_ids, one["new_ids"].get<Ids>()) << one["prompt"].dump() << one["parameters"].dump();
  }
}

TEST_F(ClassicsContinuation, OfABatchIsThatOfEachPromptAlone) {
  std::vector<Ids> prompts, alone;
  GenerationConfig config;
  for (const Json& one : golden["generate"]) {
    if (one["parameters"].size() != 1) continue;  // greedy: max_new_tokens alone
    prompts.push_back(one["prompt_ids"].get<Ids>());
    alone.push_back(one["new_ids"].get<Ids>());
    config = config_of(one["parameters"]);
  }
  std::vector<Ids> together;
  for (const GenerationResult& result : generate(model, prompts, config).results) together.push_back(result.new_ids);
  EXPECT_EQ(together, alone);
}

TEST_F(ClassicsContinuation, OfABatchReadsAsThatOfTransformersPaddedBatch) {
  const Json& batch = golden["batched_left_padded"];
  std::vector<Ids> prompts;
  for (const Json& text : batch["prompts"]) {
    prompts.push_back(tokenizer->encode(text.get<std::string>(), SpecialTokens::include));
  }
  GenerationConfig config = config_of(Json::object());
  config.max_new_tokens = batch["max_new_tokens"].get<std::int64_t>();
  std::vector<std::string> texts;
  for (const GenerationResult& result : generate(model, prompts, config).results) {
    texts.push_back(tokenizer->decode(result.new_ids, SpecialTokens::omit));
  }
  EXPECT_EQ(texts, batch["texts"].get<std::vector<std::string>>());
}

TEST_F(ClassicsContinuation, IsStreamedAsItReadsInTheEnd) {
  const Json& one = golden["generate"][0];
  std::string streamed;
  TextStreamer streamer(text_decoders(*tokenizer, SpecialTokens::omit),
                        [&](std::string_view text) { streamed += text; });
  GenerateOptions options;
  options.streamer = &streamer;
  const std::vector<Ids> prompts{one["prompt_ids"].get<Ids>()};
  generate(model, prompts, config_of(one["parameters"]), options);
  EXPECT_EQ(streamed, one["text"].get<std::string>());
}

TEST_F(ClassicsContinuation, EndsWithTheTokenThatCompletesAStopString) {
  const Json& one = golden["generate"][0];
  const auto text = one["text"].get<std::string>();
  GenerationConfig config = config_of(one["parameters"]);
  config.stop_strings = {{text.substr(12, 5)}};
  GenerateOptions options;
  options.make_text_decoder = text_decoders(*tokenizer, SpecialTokens::include);
  const std::vector<Ids> prompts{one["prompt_ids"].get<Ids>()};
  const GenerationResult result = generate(model, prompts, config, options).results[0];
  const std::string short_text = tokenizer->decode(result.new_ids, SpecialTokens::omit);
  const Ids without_last(result.new_ids.begin(), result.new_ids.end() - 1);
  EXPECT_EQ(result.finish_reason, FinishReason::stop);
  EXPECT_NE(short_text.find(config.stop_strings->front()), std::string::npos) << short_text;
  EXPECT_EQ(tokenizer->decode(without_last, SpecialTokens::omit).find(config.stop_strings->front()), std::string::npos);
}

TEST_F(ClassicsContinuation, BySamplingDoesNotDependOnTheBatch) {
  GenerationConfig config = config_of(Json::object());
  config.do_sample = true;
  config.seed = 5;
  config.max_new_tokens = 10;
  const std::vector<Ids> prompts{golden["generate"][0]["prompt_ids"].get<Ids>(),
                                 golden["generate"][5]["prompt_ids"].get<Ids>()};
  const GenerateOutput together = generate(model, prompts, config);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const GenerateOutput alone = generate(model, std::span(prompts).subspan(i, 1), config);
    EXPECT_EQ(together.results[i].new_ids, alone.results[0].new_ids);
  }
}

}  // namespace
}  // namespace mamba2
