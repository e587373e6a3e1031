#include "mamba2/generate/stopping.h"

#include <gtest/gtest.h>

#include "mamba2/base/error.h"
#include "tests/generate/formula_decoder.h"

namespace mamba2 {
namespace {

using Ids = std::vector<std::int32_t>;

//                                            0     1     2       3        4      5    6      7
const std::vector<std::string> vocabulary{"st", "op", "stop", "opera", "last", "s", "top", "x"};

bool stops(std::vector<std::string> strings, const Ids& ids, std::int32_t next) {
  return StopStrings(std::move(strings), text_decoder_of(vocabulary)).completed_by(ids, next);
}

TEST(StopStrings, AreFoundInOneToken) {
  EXPECT_TRUE(stops({"stop"}, {7}, 2));
}

TEST(StopStrings, AreFoundAcrossTokensAndWithinThem) {
  EXPECT_TRUE(stops({"stop"}, {0}, 1));
  EXPECT_TRUE(stops({"stop"}, {4}, 1));
  EXPECT_TRUE(stops({"stop"}, {7, 0}, 3));
  EXPECT_TRUE(stops({"stop"}, {5}, 6));
}

TEST(StopStrings, MustEndInTheLastToken) {
  EXPECT_FALSE(stops({"stop"}, {2}, 7));
  EXPECT_FALSE(stops({"stop"}, {0, 1}, 7));
}

TEST(StopStrings, AreLookedForEachByItself) {
  EXPECT_TRUE(stops({"nothing", "op"}, {7}, 1));
  EXPECT_FALSE(stops({"nothing", "top"}, {7}, 1));
}

TEST(StopStrings, MayTakeATokenForEveryByte) {
  EXPECT_TRUE(stops({"xxxx"}, {1, 7, 7, 7}, 7));
  EXPECT_FALSE(stops({"xxxxx"}, {1, 7, 7, 7}, 7));
}

GenerationConfig with_stop(std::vector<std::string> strings) {
  GenerationConfig config;
  config.stop_strings = std::move(strings);
  return config;
}

TEST(Stopping, NeedsATokenizerForStopStrings) {
  EXPECT_THROW(Stopping(with_stop({"stop"}), nullptr, nullptr), Error);
}

TEST(Stopping, TakesTheEndBeforeTheLength) {
  GenerationConfig config;
  config.eos_token_id = {{3, 4}};
  const Stopping stopping(config, nullptr, nullptr);
  EXPECT_EQ(stopping.after(Ids{1, 2}, 4, 3), FinishReason::eos);
  EXPECT_EQ(stopping.after(Ids{1, 2}, 5, 3), FinishReason::length);
  EXPECT_EQ(stopping.after(Ids{1, 2}, 5, 4), std::nullopt);
}

TEST(Stopping, EndsWhenTheTimeIsOver) {
  GenerationConfig config;
  config.max_time = 1e-9;  // over by the time anything is asked
  EXPECT_EQ(Stopping(config, nullptr, nullptr).after(Ids{1}, 2, 100), FinishReason::length);
}

TEST(Stopping, HoldsAnEndlessTime) {
  GenerationConfig config;
  config.max_time = 1e300;
  EXPECT_EQ(Stopping(config, nullptr, nullptr).after(Ids{1}, 2, 100), std::nullopt);
}

}  // namespace
}  // namespace mamba2
