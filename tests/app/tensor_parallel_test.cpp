// A model that is split over ranks of the host says what the whole model says.
#include "tests/app/support.h"

namespace mamba2 {
namespace {

class TensorParallel : public testing::TestWithParam<const char*> {
 protected:
  /// arguments on the device, on one rank and on so many.
  static std::vector<std::string> with_ranks(std::vector<std::string> arguments, const char* ranks) {
    for (const char* more : {"--device", GetParam(), "--tensor-parallel", ranks}) arguments.emplace_back(more);
    return arguments;
  }
};

INSTANTIATE_TEST_SUITE_P(On, TensorParallel, testing::Values("cpu", "reference"));

TEST_P(TensorParallel, GeneratesTheTextOfTheWholeModel) {
  const std::vector<std::string> arguments{"generate", "It was a dark night, and the", "--max-new-tokens", "20"};
  const Json whole = run_json(with_ranks(arguments, "1")).at(0);
  for (const char* ranks : {"2", "4"}) {
    const Json split = run_json(with_ranks(arguments, ranks)).at(0);
    EXPECT_EQ(split["new_ids"], whole["new_ids"]) << ranks;
  }
}

TEST_P(TensorParallel, HasThePerplexityOfTheWholeModel) {
  const std::vector<std::string> arguments{
      "perplexity", "--file", test_data("text/classics-valid.txt"), "--characters", "1500", "--context", "128"};
  const Json whole = run_json(with_ranks(arguments, "1")).at(0);
  const Json split = run_json(with_ranks(arguments, "2")).at(0);
  // On some processors cpu rounds x to bf16, where sums that differ in the last bit may round to neighbours: 2^-9
  // apart, for few of the values of a thousand tokens.
  EXPECT_NEAR(split["mean_nll"], whole["mean_nll"], 5e-5);
}

TEST_P(TensorParallel, IsTimed) {
  const Json result = run_json(with_ranks({"bench", "--prompt", "8", "--generate", "4", "--repeat", "1"}, "2")).at(0);
  EXPECT_EQ(result["runs"].size(), 2U);
}

TEST(TensorParallelIsRefused, WhereRanksDoNotDivideTheModelOrAreNotThere) {
  expect_error(mamba2_command({"generate", "It", "--tensor-parallel", "3"}), 1,
               {"can't be split over 3 ranks", "num_heads is 8, expected a multiple of 3"});
  expect_error(mamba2_command({"generate", "It", "--tensor-parallel", "64", "--device", "cuda"}), 1, {"cuda"});
}

TEST(TensorParallelIsRefused, WhereAPartOfTheStateWouldBeWritten) {
  const TemporaryFolder folder;
  expect_error(mamba2_command({"forward", "--input", folder.write("in.json", R"({"input_ids": [[1, 2]]})"), "--output",
                               folder / "out.safetensors", "--states", "--tensor-parallel", "2"}),
               1, {"--states", "--tensor-parallel 2"});
}

}  // namespace
}  // namespace mamba2
