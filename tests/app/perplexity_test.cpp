#include <cmath>

#include "tests/app/support.h"

namespace mamba2 {
namespace {

// transformers' sums are f32, and weights rounded to bf16 are the same on both sides
constexpr double tolerance = 2e-4;

/// Tokens of a window.
class PerplexityOf : public testing::TestWithParam<int> {};

TEST_P(PerplexityOf, ThisWindowIsTransformers) {
  const Json expected = read_json_file(golden("classics-5m.json"))["perplexity"];
  for (const Json& run : expected["runs"]) {
    if (run["context"] != GetParam()) continue;
    const std::vector<Json> results =
        run_json({"perplexity", "--file", test_data(expected["file"]), "--characters",
                  expected["first_characters"].dump(), "--context", run["context"].dump()});
    ASSERT_EQ(results.size(), 1U);
    const Json& got = results[0];
    EXPECT_THAT(keys(got), testing::ElementsAre("tokens", "windows", "predicted_tokens", "mean_nll", "perplexity",
                                                "tokens_per_s"));
    EXPECT_EQ(got["tokens"], expected["tokens"]);
    EXPECT_EQ(got["windows"], run["windows"]);
    EXPECT_EQ(got["predicted_tokens"], run["predicted_tokens"]);
    EXPECT_NEAR(got["mean_nll"], run["mean_nll"], tolerance);
    EXPECT_DOUBLE_EQ(got["perplexity"], std::exp(got["mean_nll"].get<double>()));
    return;
  }
  FAIL() << "the golden file has no such window";
}

INSTANTIATE_TEST_SUITE_P(AsTransformers, PerplexityOf, testing::Values(256, 1024));

TEST(Perplexity, NeedsAWholeWindow) {
  const TemporaryFolder folder;
  expect_error(mamba2_command({"perplexity", "--file", folder.write("short.txt", "It was")}), 1,
               {"short.txt", "2 tokens", "1024"});
  expect_error(mamba2_command({"perplexity", "--file", folder.write("empty.txt", "")}), 1, {"empty.txt"});
}

TEST(Perplexity, NamesAFileThatCantBeRead) {
  const TemporaryFolder folder;
  expect_error(mamba2_command({"perplexity", "--file", folder / "none.txt"}), 1, {"none.txt"});
  expect_error(mamba2_command({"perplexity", "--file", folder.path()}), 1, {folder.path()});
}

}  // namespace
}  // namespace mamba2
