// Every search strategy against transformers over the same small model.

#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "mamba2/base/json.h"
#include "mamba2/generate/generate.h"
#include "tests/generate/formula_decoder.h"

namespace mamba2 {
namespace {

using Ids = std::vector<std::int32_t>;

/// Cases made by make_searches.py; MAMBA2_SEARCH_CASES names another file of them.
Json cases() {
  const char* other = std::getenv("MAMBA2_SEARCH_CASES");
  return read_json_file(other != nullptr ? other : MAMBA2_SOURCE_DIR "/tests/generate/searches.json");
}

GenerateOutput run(const Json& one) {
  FormulaDecoder decoder(one["vocab_size"].get<std::int64_t>(), one["spread"].get<double>());
  const std::vector<Ids> prompts{one["prompt"].get<Ids>()};
  return generate(decoder, prompts, GenerationConfig::from_json(one["parameters"], "case"));
}

TEST(TransformersSearch, FindsTheSameTokens) {
  for (const Json& one : cases()) {
    const GenerateOutput output = run(one);
    std::vector<Ids> found;
    for (const GenerationResult& result : output.results) found.push_back(result.new_ids);
    EXPECT_EQ(found, one["new_ids"].get<std::vector<Ids>>()) << one.dump();
  }
}

TEST(TransformersSearch, GivesBeamsTheSameScores) {
  for (const Json& one : cases()) {
    if (!one.contains("scores")) continue;
    const GenerateOutput output = run(one);
    ASSERT_EQ(output.results.size(), one["scores"].size());
    for (std::size_t i = 0; i < output.results.size(); ++i) {
      const double expected = one["scores"][i].get<double>();
      // A score sums up to 20 float32 terms and is divided once, each rounding of its running value by 2^-24; the two
      // log-softmaxes differ by some 4 of those; length^length_penalty is at least 1/20.
      const double bound = 20 * 5 * 0x1p-24 * 20 * 16;
      EXPECT_NEAR(output.results[i].score.value(), expected, bound) << one.dump();
    }
  }
}

}  // namespace
}  // namespace mamba2
