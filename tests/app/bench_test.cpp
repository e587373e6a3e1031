#include "tests/app/support.h"

namespace mamba2 {
namespace {

using testing::UnorderedElementsAre;

std::int64_t at(const Json& run, const char* key) {
  return run[key].get<std::int64_t>();
}

TEST(Bench, TimesARandomModelBesideTheMachinesLimits) {
  const std::vector<Json> results =
      run_json({"bench", "--shape", "130m", "--prompt", "8", "--generate", "2", "--batch", "1,2", "--repeat", "1"});
  ASSERT_EQ(results.size(), 1U);
  EXPECT_THAT(keys(results[0]), UnorderedElementsAre("machine", "runs"));
  EXPECT_THAT(keys(results[0]["machine"]),
              UnorderedElementsAre("cpu", "isa", "threads", "read_gb_per_s", "gemm_gflop_per_s"));
  EXPECT_THAT(keys(results[0]["machine"]["gemm_gflop_per_s"]), UnorderedElementsAre("f32", "bf16", "s8"));
  for (const char* dtype : {"f32", "bf16", "s8"}) EXPECT_GT(results[0]["machine"]["gemm_gflop_per_s"][dtype], 0);
  ASSERT_EQ(results[0]["runs"].size(), 4U);
  for (const Json& run : results[0]["runs"]) {
    EXPECT_THAT(keys(run), UnorderedElementsAre("phase", "tokens", "batch", "tokens_per_s", "ms", "weight_bytes",
                                                "state_bytes", "gb_per_s", "share_of_limit"));
    EXPECT_GT(run["tokens_per_s"], 0);
    EXPECT_GT(run["share_of_limit"], 0);
  }
}

TEST(Bench, CountsEveryWeightOnceAndTheStateReadAndWritten) {
  // 130m: 24 layers, hidden size 768, 24 heads of 64, state 128, a convolution of 4; the head is the embeddings.
  constexpr std::int64_t conv_dim = 1536 + 2 * 128, in_proj = 1536 + conv_dim + 24;
  constexpr std::int64_t vectors = 4 * (conv_dim * 4 + conv_dim + 3 * 24 + 1536 + 768);
  constexpr std::int64_t matrices = in_proj * 768 + 768 * 1536, head = 50288 * 768;
  constexpr std::int64_t state = 24 * 4 * (24 * 64 * 128 + conv_dim * 3);
  const std::vector<std::string> command{"bench", "--shape", "130m", "--prompt", "4", "--generate",
                                         "1",     "--batch", "3",    "--repeat", "1"};
  const Json bf16 = run_json(command)[0]["runs"][1];
  EXPECT_EQ(bf16["phase"], "decode");
  EXPECT_EQ(at(bf16, "weight_bytes"), 24 * (2 * matrices + vectors) + 4 * 768 + 2 * head);
  EXPECT_EQ(at(bf16, "state_bytes"), 3 * 2 * state);
  std::vector<std::string> widened = command;
  widened.insert(widened.end(), {"--dtype", "f32"});
  EXPECT_EQ(at(run_json(widened)[0]["runs"][1], "weight_bytes"), 24 * (4 * matrices + vectors) + 4 * 768 + 4 * head);
}

TEST(Bench, TimesTheEngineBesideDecode) {
  const Json runs = run_json({"bench", "--shape", "130m", "--prompt", "4", "--generate", "2", "--batch", "2",
                              "--engine", "--repeat", "1"})[0]["runs"];
  ASSERT_EQ(runs.size(), 3U);
  EXPECT_EQ(runs[2]["phase"], "engine");
  EXPECT_EQ(at(runs[2], "state_bytes"), at(runs[1], "state_bytes"));
  EXPECT_GT(runs[2]["tokens_per_s"], 0);
}

TEST(Bench, TimesAPromptInPiecesOfEachLengthAskedFor) {
  const Json runs = run_json(
      {"bench", "--shape", "130m", "--prompt", "9", "--piece", "0,4", "--generate", "0", "--repeat", "1"})[0]["runs"];
  ASSERT_EQ(runs.size(), 2U);
  EXPECT_FALSE(runs[0].contains("piece"));
  EXPECT_EQ(at(runs[1], "piece"), 4);
  expect_error(mamba2_command({"bench", "--shape", "130m", "--piece", "-1"}), 2, {"--piece"});
}

TEST(Bench, NamesAnUnknownShape) {
  expect_error(mamba2_command({"bench", "--shape", "13b"}), 2, {"13b", "130m"});
}

TEST(Doctor, FindsThatTheBackendAgreesWithTheReference) {
  const std::vector<Json> results = run_json({"doctor"});
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0]["parity"]["agrees"], true);
}

}  // namespace
}  // namespace mamba2
