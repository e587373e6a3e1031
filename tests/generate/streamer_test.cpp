#include "mamba2/generate/streamer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "mamba2/base/error.h"
#include "tests/generate/formula_decoder.h"

namespace mamba2 {
namespace {

using Ids = std::vector<std::int32_t>;
using testing::ElementsAre;

//                                          0     1     2      3       4
const std::vector<std::string> vocabulary{"st", "op", " a", "stopper", "s"};

std::vector<std::string> pieces(const Ids& prompt, const Ids& tokens, PromptText prompt_text,
                                std::vector<std::string> hidden) {
  std::vector<std::string> out;
  TextStreamer streamer(
      text_decoder_of(vocabulary), [&](std::string_view text) { out.emplace_back(text); }, prompt_text);
  streamer.hide_from(std::move(hidden));
  streamer.prompt(0, prompt);
  for (const std::int32_t token : tokens) streamer.put(0, {&token, 1});
  streamer.end(0);
  return out;
}

TEST(TextStreamer, PassesOnEachToken) {
  EXPECT_THAT(pieces({4}, {2, 1}, PromptText::skipped, {}), ElementsAre(" a", "op"));
}

TEST(TextStreamer, ShowsThePromptWhereAsked) {
  EXPECT_THAT(pieces({4, 2}, {1}, PromptText::shown, {}), ElementsAre("s a", "op"));
}

TEST(TextStreamer, NeverShowsPartOfAHiddenString) {
  EXPECT_THAT(pieces({2}, {2, 0, 1, 2}, PromptText::skipped, {"stop"}), ElementsAre(" a"));
  EXPECT_THAT(pieces({2}, {2, 3, 2}, PromptText::skipped, {"stop"}), ElementsAre(" a"));
  EXPECT_THAT(pieces({2}, {2, 0, 1}, PromptText::skipped, {"top"}), ElementsAre(" a", "s"));
}

TEST(TextStreamer, ReleasesWhatWasNotTheBeginningAfterAll) {
  EXPECT_THAT(pieces({2}, {0, 2}, PromptText::skipped, {"stop"}), ElementsAre("st a"));
  EXPECT_THAT(pieces({2}, {0, 0, 1}, PromptText::skipped, {"stop"}), ElementsAre("st"));
}

TEST(TextStreamer, ReleasesABeginningThatTheTextEndsWith) {
  EXPECT_THAT(pieces({2}, {2, 0}, PromptText::skipped, {"stop"}), ElementsAre(" a", "st"));
}

TEST(TextStreamer, StreamsTheNextTextAfresh) {
  std::string out;
  TextStreamer streamer(text_decoder_of(vocabulary), [&](std::string_view text) { out += text; });
  streamer.hide_from({"op"});
  for (int text = 0; text < 2; ++text) {
    streamer.prompt(0, Ids{2});
    streamer.put(0, Ids{0, 1});
    streamer.end(0);
  }
  EXPECT_EQ(out, "stst");
}

TEST(TextStreamer, RefusesASecondResult) {
  TextStreamer streamer(text_decoder_of(vocabulary), [](std::string_view) {});
  EXPECT_THROW(streamer.prompt(1, Ids{2}), Error);
}

}  // namespace
}  // namespace mamba2
