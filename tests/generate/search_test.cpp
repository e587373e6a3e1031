// generate() over a small model: batches, seeds, ends, errors.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "mamba2/base/error.h"
#include "mamba2/generate/generate.h"
#include "tests/generate/formula_decoder.h"

namespace mamba2 {
namespace {

using Ids = std::vector<std::int32_t>;
using testing::ElementsAre;

constexpr std::int64_t vocab_size = 50;

GenerateOutput run(const std::vector<Ids>& prompts, const GenerationConfig& config,
                   const GenerateOptions& options = {}) {
  FormulaDecoder decoder(vocab_size, 6);
  return generate(decoder, prompts, config, options);
}

std::vector<Ids> new_ids(const GenerateOutput& output) {
  std::vector<Ids> all;
  for (const GenerationResult& result : output.results) all.push_back(result.new_ids);
  return all;
}

GenerationConfig sampling() {
  GenerationConfig config;
  config.do_sample = true;
  config.seed = 42;
  config.max_new_tokens = 12;
  config.eos_token_id = {{3, 17}};
  return config;
}

GenerationConfig beams() {
  GenerationConfig config;
  config.num_beams = 3;
  config.max_new_tokens = 9;
  config.eos_token_id = {{3}};
  return config;
}

GenerationConfig beam_sampling() {
  GenerationConfig config = beams();
  config.do_sample = true;
  config.seed = 1;
  config.num_return_sequences = 2;
  return config;
}

const std::vector<Ids> prompts{{1, 2, 3}, {4}, {5, 6, 7, 8, 9, 10}, {49, 0}, {11, 12}};

class EveryStrategy : public testing::TestWithParam<GenerationConfig> {};

TEST_P(EveryStrategy, GivesEachPromptWhatItGetsAlone) {
  const std::vector<Ids> together = new_ids(run(prompts, GetParam()));
  std::vector<Ids> alone;
  for (const Ids& prompt : prompts) {
    for (Ids& ids : new_ids(run({prompt}, GetParam()))) alone.push_back(std::move(ids));
  }
  EXPECT_EQ(together, alone);
}

TEST_P(EveryStrategy, GivesTheSameWithFewerRowsThanSequences) {
  GenerateOptions narrow;
  narrow.max_rows = 2;
  EXPECT_EQ(new_ids(run(prompts, GetParam(), narrow)), new_ids(run(prompts, GetParam())));
}

TEST_P(EveryStrategy, EndsWithWhatThereIsWhenCancelled) {
  const std::atomic<bool> cancel = true;
  GenerateOptions options;
  options.cancel = &cancel;
  const GenerateOutput output = run(prompts, GetParam(), options);
  ASSERT_EQ(output.results.size(),
            prompts.size() * static_cast<std::size_t>(GetParam().num_return_sequences.value_or(1)));
  for (const GenerationResult& result : output.results) {
    EXPECT_EQ(result.finish_reason, FinishReason::cancelled);
    EXPECT_EQ(result.ids, prompts[result.prompt]);
    EXPECT_TRUE(result.new_ids.empty());
  }
}

TEST_P(EveryStrategy, HasNoResultsForNoPrompts) {
  EXPECT_TRUE(run({}, GetParam()).results.empty());
}

std::string strategy_name(const testing::TestParamInfo<GenerationConfig>& one) {
  const char* names[] = {"greedy", "sampling", "beams", "beam_sampling"};
  return names[one.index];
}

INSTANTIATE_TEST_SUITE_P(Searches, EveryStrategy,
                         testing::Values(GenerationConfig(), sampling(), beams(), beam_sampling()), strategy_name);

TEST(Sampling, GivesTheSameForTheSameSeedOnly) {
  GenerationConfig config = sampling();
  const auto first = new_ids(run(prompts, config));
  EXPECT_EQ(new_ids(run(prompts, config)), first);
  config.seed = 43;
  EXPECT_NE(new_ids(run(prompts, config)), first);
}

TEST(Sampling, GivesEqualPromptsTheSamplesOfOnePromptThatReturnsMany) {
  GenerationConfig config = sampling();
  const auto repeated = new_ids(run({{1, 2}, {1, 2}, {1, 2}}, config));
  EXPECT_NE(repeated[0], repeated[1]);
  config.num_return_sequences = 3;
  EXPECT_EQ(new_ids(run({{1, 2}}, config)), repeated);
}

TEST(Sampling, ReportsTheSeedItTook) {
  GenerationConfig config = sampling();
  config.seed.reset();
  const GenerateOutput output = run(prompts, config);
  config.seed = output.seed;
  EXPECT_EQ(new_ids(run(prompts, config)), new_ids(output));
}

TEST(Sampling, FromOneTokenIsGreedy) {
  GenerationConfig config = sampling();
  config.top_k = 1;
  GenerationConfig greedy;
  greedy.max_new_tokens = config.max_new_tokens;
  greedy.eos_token_id = config.eos_token_id;
  EXPECT_EQ(new_ids(run(prompts, config)), new_ids(run(prompts, greedy)));
}

TEST(Batch, LosesSequencesThatEnd) {
  GenerationConfig config;
  config.max_length = 8;  // the longest prompt has two tokens to go, the shortest seven
  FormulaDecoder decoder(vocab_size, 6);
  const GenerateOutput output = generate(decoder, prompts, config);
  // Prefill gives each its first token; then 1 + 4 + 5 + 5 + 6 more are fed.
  EXPECT_EQ(output.timings.prefill_tokens, 14);
  EXPECT_EQ(output.timings.decode_tokens, 4 + 6 + 1 + 5 + 5);
}

TEST(Batch, HoldsNoMoreRowsThanAllowed) {
  FormulaDecoder decoder(vocab_size, 6);
  GenerateOptions options;
  options.max_rows = 3;
  generate(decoder, prompts, sampling(), options);
  EXPECT_EQ(decoder.largest_batch(), 3U);
}

TEST(Result, HoldsPromptAndEndToken) {
  GenerationConfig config;
  config.forced_eos_token_id = {{7}};
  config.eos_token_id = {{7}};
  config.max_new_tokens = 2;
  const GenerateOutput output = run({{1, 2}}, config);
  EXPECT_EQ(output.results[0].new_ids.back(), 7);
  EXPECT_EQ(output.results[0].finish_reason, FinishReason::eos);
  EXPECT_EQ(output.results[0].ids.size(), 2 + output.results[0].new_ids.size());
}

TEST(MinNewTokens, HoldsOffTheEnd) {
  GenerationConfig config;
  config.max_new_tokens = 10;
  for (std::int32_t id = 0; id < vocab_size; ++id) {
    if (id != 5) config.eos_token_id.emplace(config.eos_token_id.value_or(Ids())).push_back(id);
  }
  config.min_new_tokens = 4;
  EXPECT_THAT(run({{1}}, config).results[0].new_ids, ElementsAre(5, 5, 5, 5, testing::Ne(5)));
}

std::vector<std::string> letters() {
  std::vector<std::string> texts;
  for (int i = 0; i < vocab_size; ++i) texts.push_back("<" + std::to_string(i) + ">");
  return texts;
}

TEST(StopString, EndsTheTextAndStaysInIt) {
  GenerationConfig config;
  config.max_new_tokens = 10;
  const Ids all = run({{1, 2}}, config).results[0].new_ids;
  GenerateOptions options;
  options.make_text_decoder = text_decoder_of(letters());
  // From the end of one token over the border into the next.
  config.stop_strings = {{std::to_string(all[3]) + "><" + std::to_string(all[4]).substr(0, 1)}};
  const GenerateOutput output = run({{1, 2}}, config, options);
  EXPECT_EQ(output.results[0].new_ids, Ids(all.begin(), all.begin() + 5));
  EXPECT_EQ(output.results[0].finish_reason, FinishReason::stop);
}

TEST(StopString, MayBeginInThePrompt) {
  GenerationConfig config;
  config.max_new_tokens = 10;
  const Ids all = run({{1, 2}}, config).results[0].new_ids;
  config.stop_strings = {{"<2><" + std::to_string(all[0]) + ">"}};
  GenerateOptions options;
  options.make_text_decoder = text_decoder_of(letters());
  EXPECT_EQ(run({{1, 2}}, config, options).results[0].new_ids.size(), 1U);
}

/// Writes down what it hears, and cancels after some tokens.
class Listener : public BaseStreamer {
 public:
  explicit Listener(std::size_t cancel_after = std::numeric_limits<std::size_t>::max()) : cancel_after_(cancel_after) {}
  void prompt(std::size_t result, std::span<const std::int32_t> ids) override {
    heard_[result] = "p" + std::to_string(ids.size()) + ":";
  }
  void put(std::size_t result, std::span<const std::int32_t> ids) override {
    for (const std::int32_t id : ids) heard_[result] += std::to_string(id) + ",";
    if (++puts_ == cancel_after_) cancel = true;
  }
  void end(std::size_t result) override { heard_[result] += "end"; }
  const std::string& heard(std::size_t result) { return heard_[result]; }

  std::atomic<bool> cancel = false;

 private:
  std::map<std::size_t, std::string> heard_;
  std::size_t puts_ = 0;
  std::size_t cancel_after_;
};

class EveryStrategyStreamed : public testing::TestWithParam<GenerationConfig> {};

TEST_P(EveryStrategyStreamed, TellsTheStreamerEveryResult) {
  Listener listener;
  GenerateOptions options;
  options.streamer = &listener;
  const GenerateOutput output = run(prompts, GetParam(), options);
  for (std::size_t i = 0; i < output.results.size(); ++i) {
    std::string expected = "p" + std::to_string(prompts[output.results[i].prompt].size()) + ":";
    for (const std::int32_t id : output.results[i].new_ids) expected += std::to_string(id) + ",";
    EXPECT_EQ(listener.heard(i), expected + "end");
  }
}

INSTANTIATE_TEST_SUITE_P(Searches, EveryStrategyStreamed,
                         testing::Values(GenerationConfig(), sampling(), beams(), beam_sampling()), strategy_name);

TEST(Cancel, KeepsTheTokensThatWereMade) {
  Listener listener(4);
  GenerateOptions options;
  options.streamer = &listener;
  options.cancel = &listener.cancel;
  const GenerationResult result = run({{1, 2}}, GenerationConfig(), options).results[0];
  EXPECT_EQ(result.new_ids.size(), 4U);
  EXPECT_EQ(result.finish_reason, FinishReason::cancelled);
}

TEST(Cancel, IsHeardBetweenPiecesOfALongPrompt) {
  class CancellingDecoder : public FormulaDecoder {
   public:
    using FormulaDecoder::FormulaDecoder;
    std::span<float> feed(std::span<const DecoderInput> inputs) override {
      cancel = true;
      return FormulaDecoder::feed(inputs);
    }
    std::atomic<bool> cancel = false;
  };
  CancellingDecoder decoder(vocab_size, 6);
  GenerateOptions options;
  options.cancel = &decoder.cancel;
  const std::vector<Ids> long_prompt{Ids(5000, 1)};
  const GenerateOutput output = generate(decoder, long_prompt, GenerationConfig(), options);
  EXPECT_EQ(decoder.feeds(), 1U);
  EXPECT_TRUE(output.results[0].new_ids.empty());
}

TEST(Prefill, OfALongPromptInPiecesIsThatOfTheWhole) {
  GenerationConfig config;
  config.max_new_tokens = 3;
  Ids long_prompt(5000, 1);
  long_prompt.insert(long_prompt.end(), {7, 8, 9});
  // The model looks at three tokens.
  EXPECT_EQ(new_ids(run({long_prompt, {7, 8, 9}}, config))[0], new_ids(run({{7, 8, 9}}, config))[0]);
}

TEST(EmptyPrompt, StartsFromTheBosToken) {
  GenerationConfig config;
  config.bos_token_id = 6;
  EXPECT_EQ(new_ids(run({{}}, config)), new_ids(run({{6}}, config)));
}

std::string error_of(const std::vector<Ids>& wrong, const GenerationConfig& config) {
  try {
    run(wrong, config);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Prompt, IsRefusedByItsPlace) {
  EXPECT_EQ(error_of({{1}, {}}, {}), "prompt 1 is empty and there is no bos_token_id to start from");
  EXPECT_EQ(error_of({{1, 50}}, {}), "prompt 0: token 50 at position 1 is outside the vocabulary of 50 tokens");
  EXPECT_EQ(error_of({{-1}}, {}), "prompt 0: token -1 at position 0 is outside the vocabulary of 50 tokens");
}

TEST(Prompt, AsLongAsMaxLengthIsAnError) {
  GenerationConfig config;
  config.max_length = 2;
  EXPECT_EQ(error_of({{1, 2}}, config),
            "the prompt has 2 tokens, but max_length is 2: increase it or set max_new_tokens");
}

TEST(Generate, RefusesAnInvalidConfig) {
  GenerationConfig config;
  config.top_p = 2;
  EXPECT_EQ(error_of({{1}}, config), "'top_p' is 2, expected a number from 0 to 1");
}

TEST(BeamSampling, FollowsItsSeed) {
  GenerationConfig config = beam_sampling();
  const auto first = new_ids(run(prompts, config));
  EXPECT_EQ(new_ids(run(prompts, config)), first);
  config.seed = 2;
  EXPECT_NE(new_ids(run(prompts, config)), first);
}

TEST(BeamSearch, ReturnsTheBestFirst) {
  GenerationConfig config = beams();
  config.num_return_sequences = 3;
  const GenerateOutput output = run({{1, 2}}, config);
  EXPECT_GE(output.results[0].score, output.results[1].score);
  EXPECT_GE(output.results[1].score, output.results[2].score);
}

}  // namespace
}  // namespace mamba2
