// The shipped model's continuations against transformers'.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "mamba2/base/json.h"
#include "mamba2/generate/generate.h"
#include "mamba2/model/modeling_mamba2.h"

namespace mamba2 {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr const char* folder = MAMBA2_SOURCE_DIR "/models/classics-5m";

class ClassicsContinuation : public testing::Test {
 protected:
  ClassicsContinuation()
      : model(Mamba2ForCausalLM::from_pretrained(folder, {.device = "reference"})),
        golden(read_json_file(MAMBA2_SOURCE_DIR "/tests/data/golden/classics-5m.json")) {}

  GenerationConfig config_of(const Json& parameters) const {
    GenerationConfig config = GenerationConfig::from_json(parameters, "golden");
    config.fill_from(GenerationConfig::from_folder(folder));
    config.fill_from(GenerationConfig::from_model_config(model.config()));
    return config;
  }

  Mamba2ForCausalLM model;
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
