// Logits processors against transformers' outputs.

#include "mamba2/generate/logits_processor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "mamba2/base/error.h"
#include "mamba2/base/json.h"
#include "mamba2/generate/penalties.h"
#include "mamba2/generate/token_rules.h"
#include "mamba2/generate/warpers.h"

namespace mamba2 {
namespace {

using Ids = std::vector<std::int32_t>;
constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> scores_from(const Json& json) {
  std::vector<float> scores;
  for (const Json& value : json) scores.push_back(value.is_string() ? -infinity : value.get<float>());
  return scores;
}

/// The case's processor as generate() would make it: from a config with nothing else set.
std::vector<LogitsProcessor> processors_of(const Json& one, std::int64_t vocab_size) {
  static const std::set<std::string> warpers{"temperature", "top_k",          "top_p",     "min_p",
                                             "typical_p",   "epsilon_cutoff", "eta_cutoff"};
  const auto processor = one["processor"].get<std::string>();
  GenerationConfig config = GenerationConfig::from_json(one["params"], "case");
  config.do_sample = warpers.contains(processor);
  if (processor != "top_k") config.top_k = 0;
  config.renormalize_logits = processor == "renormalize_logits";
  config.fill_from(GenerationConfig::defaults());
  return make_logits_processors(config, vocab_size);
}

std::int64_t prompt_length_of(const Json& params) {
  if (params.contains("prompt_length")) return params["prompt_length"].get<std::int64_t>();
  return params.value("begin_index", std::int64_t{1});
}

class GoldenProcessor : public testing::TestWithParam<std::size_t> {};

const Json& golden() {
  static const Json cases = read_json_file(MAMBA2_SOURCE_DIR "/tests/data/golden/logits-processors.json");
  return cases;
}

TEST_P(GoldenProcessor, GivesWhatTransformersGives) {
  const Json& one = golden()[GetParam()];
  for (std::size_t row = 0; row < one["scores"].size(); ++row) {
    std::vector<float> scores = scores_from(one["scores"][row]);
    const std::vector<float> expected = scores_from(one["expected"][row]);
    const Ids ids = one["input_ids"][row].get<Ids>();
    const std::int64_t max_length = one["params"].value("max_length", std::int64_t{1000});
    for (const LogitsProcessor& process : processors_of(one, std::ssize(scores))) {
      process({ids, prompt_length_of(one["params"]), max_length}, scores);
    }
    for (std::size_t i = 0; i < scores.size(); ++i) {
      // Every processor but the log-softmax rounds once or not at all: equal.  That one subtracts the largest score and
      // a logarithm of up to log(40) with its own rounding: a few steps of the largest score's magnitude.
      const bool equal = one["processor"].get<std::string>() != "renormalize_logits";
      const float bound = equal ? 0 : 4 * std::numeric_limits<float>::epsilon() * 8;
      if (expected[i] == -infinity || equal) {
        EXPECT_EQ(scores[i], expected[i]) << one["processor"] << " row " << row << " token " << i;
      } else {
        EXPECT_NEAR(scores[i], expected[i], bound) << one["processor"] << " row " << row << " token " << i;
      }
    }
  }
}

std::string case_name(const testing::TestParamInfo<std::size_t>& one) {
  return fmt::format("{}_{}", golden()[one.param]["processor"].get<std::string>(), one.param);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenProcessor, testing::Range<std::size_t>(0, 36), case_name);

TEST(GoldenProcessors, AreAllTried) {
  EXPECT_EQ(golden().size(), 36U);
}

std::vector<float> after(const LogitsProcessor& processor, std::vector<float> scores, const Ids& ids = {1}) {
  processor({ids, 1, 100}, scores);
  return scores;
}

TEST(TopK, KeepsEveryTokenEqualToTheKth) {
  EXPECT_EQ(after(top_k(2), {1, 3, 2, 2, 0}), (std::vector<float>{-infinity, 3, 2, 2, -infinity}));
}

TEST(TopP, OfEqualTokensRemovesThoseOfLowerIdsFirst) {
  // Four tokens of a quarter each: cumulated from the worst, 0.25 and 0.5 are at most 1 - 0.5.
  EXPECT_EQ(after(top_p(0.5, 1), {1, 1, 1, 1}), (std::vector<float>{-infinity, -infinity, 1, 1}));
}

TEST(TopP, KeepsTheBestTokenThoughPIsZero) {
  EXPECT_EQ(after(top_p(0, 1), {0, 2, 1}), (std::vector<float>{-infinity, 2, -infinity}));
}

TEST(TopP, KeepsAsManyTokensAsBeamsNeed) {
  EXPECT_EQ(after(top_p(0.01, 2), {0, 9, 1}), (std::vector<float>{-infinity, 9, 1}));
}

TEST(TopP, FollowsAFlatDistributionPastTheFirstTokensItLooksAt) {
  // 1000 equal tokens: removed while their sum from the worst is at most a half, that is 500 of them.
  const std::vector<float> scores = after(top_p(0.5, 1), std::vector<float>(1000, 1.0F));
  EXPECT_NEAR(static_cast<double>(std::count(scores.begin(), scores.end(), 1.0F)), 500, 1);
}

TEST(TypicalP, FollowsAFlatDistributionPastTheFirstTokensItLooksAt) {
  // All are equally far from the entropy, so none is farther than the last that is needed.
  const std::vector<float> scores = after(typical_p(0.5, 1), std::vector<float>(1000, 1.0F));
  EXPECT_EQ(std::count(scores.begin(), scores.end(), 1.0F), 1000);
}

TEST(Warpers, LeaveADistributionWithoutATokenAsItIs) {
  const std::vector<float> nothing(5, -infinity);
  for (const LogitsProcessor& warper :
       {top_k(2), top_p(0.5, 1), min_p(0.5, 1), typical_p(0.5, 1), epsilon_cutoff(0.1, 1), eta_cutoff(0.1, 1),
        top_h(0.5), temperature(0.5), renormalize_logits()}) {
    EXPECT_EQ(after(warper, nothing), nothing);
  }
}

TEST(RepetitionPenalty, TreatsATokenThatCameTwiceOnce) {
  EXPECT_EQ(after(repetition_penalty(2), {4, -4, 4}, {0, 1, 0, 1}), (std::vector<float>{2, -8, 4}));
}

TEST(NoRepeatNgram, OfSizeOneRulesOutEveryTokenThatCame) {
  EXPECT_EQ(after(no_repeat_ngram(1), {1, 2, 3}, {2, 0}), (std::vector<float>{-infinity, 2, -infinity}));
}

TEST(NoRepeatNgram, LongerThanTheHistoryRulesOutNothing) {
  EXPECT_EQ(after(no_repeat_ngram(4), {1, 2, 3}, {2, 2, 2}), (std::vector<float>{1, 2, 3}));
}

TEST(SequenceBias, AddsUpOverSequencesThatEndInOneToken) {
  EXPECT_EQ(after(sequence_bias({{{0, 2}, 1.5}, {{2}, 0.5}}), {0, 0, 0}, {1, 0}), (std::vector<float>{0, 0, 2}));
}

TEST(SequenceBias, OfEqualSequencesTakesTheLast) {
  EXPECT_EQ(after(sequence_bias({{{2}, 1.5}, {{2}, 0.5}}), {0, 0, 0}), (std::vector<float>{0, 0, 0.5F}));
}

TEST(SequenceBias, NeedsAHistoryAsLongAsTheSequence) {
  // transformers ignores a sequence longer than the history, even where its beginning is there.
  EXPECT_EQ(after(sequence_bias({{{1, 2}, 1.0}}), {0, 0, 0}, {1}), (std::vector<float>{0, 0, 0}));
}

TEST(BadWords, CannotForbidTheEnd) {
  GenerationConfig config;
  config.bad_words_ids = {{{0}, {1}}};
  config.eos_token_id = {{0}};
  config.fill_from(GenerationConfig::defaults());
  EXPECT_EQ(after(make_logits_processors(config, 3).at(0), {1, 1, 1}), (std::vector<float>{1, -infinity, 1}));
}

TEST(ForcedBos, IsTheTokenAfterAPromptOfOne) {
  EXPECT_EQ(after(forced_bos(1), {1, 2, 3}, {7}), (std::vector<float>{-infinity, 0, -infinity}));
  EXPECT_EQ(after(forced_bos(1), {1, 2, 3}, {7, 7}), (std::vector<float>{1, 2, 3}));
}

TEST(BeginSuppressTokens, MovesOnByOneAfterAForcedToken) {
  EXPECT_EQ(after(begin_suppress_tokens({1}, true), {1, 2, 3}, {7}), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(after(begin_suppress_tokens({1}, true), {1, 2, 3}, {7, 7}), (std::vector<float>{1, -infinity, 3}));
}

TEST(RemoveInvalidValues, LeavesOnlyFiniteScores) {
  constexpr float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(after(remove_invalid_values(), {std::nanf(""), infinity, -infinity, 1}),
            (std::vector<float>{0, largest, -largest, 1}));
}

TEST(ExponentialDecay, LeavesAForbiddenEndForbidden) {
  EXPECT_EQ(after(exponential_decay_length_penalty({0, 1.5}, {0}), {-infinity, 1}, {1, 1, 1}),
            (std::vector<float>{-infinity, 1}));
}

TEST(LogitsProcessors, RefuseATokenOutsideTheVocabularyByItsField) {
  GenerationConfig config;
  config.bad_words_ids = {{{1, 99}}};
  config.fill_from(GenerationConfig::defaults());
  try {
    make_logits_processors(config, 50);
    FAIL() << "took token 99";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "'bad_words_ids' names token 99, but the vocabulary has 50 tokens");
  }
}

}  // namespace
}  // namespace mamba2
