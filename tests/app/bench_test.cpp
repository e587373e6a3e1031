#include "tests/app/support.h"

namespace mamba2 {
namespace {

using testing::IsSupersetOf;

TEST(Bench, TimesARandomModelBesideTheMachinesLimits) {
  const std::vector<Json> results =
      run_json({"bench", "--shape", "130m", "--prompt", "8", "--generate", "2", "--batch", "1,2", "--repeat", "1"});
  ASSERT_EQ(results.size(), 1U);
  EXPECT_THAT(keys(results[0]), IsSupersetOf({"machine", "runs"}));
  EXPECT_THAT(keys(results[0]["machine"]),
              IsSupersetOf({"cpu", "isa", "threads", "read_gb_per_s", "gemm_gflop_per_s"}));
  EXPECT_THAT(keys(results[0]["machine"]["gemm_gflop_per_s"]), IsSupersetOf({"f32", "bf16"}));
  ASSERT_EQ(results[0]["runs"].size(), 4U);
  for (const Json& run : results[0]["runs"]) {
    EXPECT_THAT(keys(run), IsSupersetOf({"phase", "tokens", "batch", "tokens_per_s", "ms", "weight_bytes",
                                         "state_bytes", "gb_per_s", "share_of_limit"}));
    EXPECT_GT(run["tokens_per_s"], 0);
  }
}

TEST(Bench, NamesAnUnknownShape) {
  const ProcessResult result = mamba2_command({"bench", "--shape", "13b"});
  expect_error(result, result.exit_code, {"13b", "130m"});
  EXPECT_THAT(result.exit_code, testing::AnyOf(1, 2));
}

TEST(Doctor, FindsThatTheBackendAgreesWithTheReference) {
  const std::vector<Json> results = run_json({"doctor"});
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0]["parity"]["agrees"], true);
}

}  // namespace
}  // namespace mamba2
