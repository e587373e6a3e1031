#include <algorithm>
#include <cmath>

#include "mamba2/checkpoint/tensor_source.h"
#include "tests/app/support.h"

namespace mamba2 {
namespace {

class Classify : public testing::TestWithParam<std::string> {};

TEST_P(Classify, GivesTheGoldenLogits) {
  const auto source = open_tensors(golden(GetParam()) + "/golden.safetensors");
  const Tensor ids = source->read("classify.input_ids"), want = source->read("classify.logits");
  Json rows = Json::array();
  for (std::int64_t row = 0; row < ids.size(0); ++row) {
    rows.push_back(Json::array());
    for (std::int64_t i = 0; i < ids.size(1); ++i)
      rows.back().push_back(static_cast<std::int64_t>(element_as_double(ids, row * ids.size(1) + i)));
  }
  const TemporaryFolder folder;
  const std::string file = folder.write("input.json", Json{{"input_ids", rows}}.dump());
  const std::vector<Json> results = run_json({"classify", "--model", golden(GetParam()), "--input", file});
  ASSERT_EQ(static_cast<std::int64_t>(results.size()), want.size(0));
  std::int64_t element = 0;
  for (const Json& result : results) {
    EXPECT_THAT(keys(result), testing::ElementsAre("text", "label", "score", "logits", "scores"));
    ASSERT_EQ(static_cast<std::int64_t>(result["logits"].size()), want.size(1));
    double largest = -INFINITY;
    for (const auto& [label, score] : result["scores"].items()) largest = std::max(largest, score.get<double>());
    EXPECT_EQ(result["score"], largest);
    EXPECT_EQ(result["scores"][std::string(result["label"])], largest);
    for (const double logit : result["logits"]) {
      // f32 sums against f64's
      EXPECT_NEAR(logit, element_as_double(want, element), 1e-5 * std::max(1.0, std::abs(logit)));
      ++element;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(OfEveryProblem, Classify,
                         testing::Values("fork-classify-single-label", "fork-classify-multi-label",
                                         "fork-classify-regression"));

TEST(ClassifyCommand, ScoresOfOneLabelSumToOne) {
  const TemporaryFolder folder;
  const std::string file = folder.write("input.json", R"({"input_ids": [[5, 6, 7]]})");
  const std::vector<Json> results =
      run_json({"classify", "--model", golden("fork-classify-single-label"), "--input", file});
  ASSERT_EQ(results.size(), 1U);
  double sum = 0;
  for (const auto& [label, score] : results[0]["scores"].items()) sum += score.get<double>();
  EXPECT_NEAR(sum, 1, 1e-12);
}

TEST(ClassifyCommand, NamesAModelWithoutAHead) {
  expect_error(mamba2_command({"classify", "text"}), 1, {"classics-5m"});
}

TEST(ClassifyCommand, NamesAnIdOutsideTheVocabulary) {
  const TemporaryFolder folder;
  const std::string file = folder.write("input.json", R"({"input_ids": [[5, 100000]]})");
  expect_error(mamba2_command({"classify", "--model", golden("fork-classify-single-label"), "--input", file}), 1,
               {"input.json", "input_ids", "100000"});
}

}  // namespace
}  // namespace mamba2
