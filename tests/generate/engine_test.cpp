// The engine over a model that is a formula: who is fed when, how requests end, what an error touches.

#include "mamba2/generate/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <stdexcept>
#include <string>

#include "mamba2/base/error.h"
#include "mamba2/generate/generate.h"
#include "tests/generate/engine_support.h"

namespace mamba2 {
namespace {

using test::error_message;
using test::Ids;
using test::Results;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::int64_t tokens_known = 50;

/// Writes down how many tokens each input of each step has.
class WatchedDecoder : public FormulaDecoder {
 public:
  WatchedDecoder() : FormulaDecoder(tokens_known, 6) {}
  std::span<float> feed(std::span<const DecoderInput> inputs) override {
    std::vector<std::size_t>& step = steps.emplace_back();
    for (const DecoderInput& input : inputs) step.push_back(input.ids.size());
    if (fails_at == steps.size()) fail("no memory");
    return FormulaDecoder::feed(inputs);
  }
  std::vector<std::vector<std::size_t>> steps;
  std::size_t fails_at = 0;
};

GenerationConfig of_length(std::int64_t new_tokens) {
  GenerationConfig config;
  config.max_new_tokens = new_tokens;
  return config;
}

class EngineOverAFormula : public testing::Test {
 protected:
  RequestId submit(Engine& engine, Ids prompt, const GenerationConfig& config) {
    return engine.submit(results.request(std::move(prompt), config));
  }
  static void finish(Engine& engine) {
    while (engine.step()) {
    }
  }
  Ids alone(const Ids& prompt, const GenerationConfig& config) {
    FormulaDecoder other(tokens_known, 6);
    return generate(other, std::vector<Ids>{prompt}, config).results[0].new_ids;
  }

  WatchedDecoder decoder;
  Results results;
};

TEST_F(EngineOverAFormula, CutsPromptsAtMultiplesOfThePieceAndDecodesInEveryStep) {
  Engine engine(decoder, {.slots = 4, .step_tokens = 9, .prefill_piece = 4});
  submit(engine, Ids(3, 1), of_length(5));
  engine.step();
  submit(engine, Ids(10, 2), of_length(1));
  submit(engine, Ids(6, 3), of_length(2));
  finish(engine);
  EXPECT_THAT(decoder.steps, ElementsAre(ElementsAre(3), ElementsAre(1, 4, 4), ElementsAre(1, 4, 2),
                                         ElementsAre(1, 1, 2), ElementsAre(1)));
}

TEST_F(EngineOverAFormula, FeedsAPieceHoweverManyDecode) {
  Engine engine(decoder, {.slots = 3, .step_tokens = 1, .prefill_piece = 4});
  submit(engine, {1}, of_length(4));
  engine.step();
  submit(engine, {2}, of_length(4));
  engine.step();
  submit(engine, Ids(6, 3), of_length(1));
  finish(engine);
  EXPECT_THAT(decoder.steps, ElementsAre(ElementsAre(1), ElementsAre(1, 1), ElementsAre(1, 1, 4), ElementsAre(1, 1, 2),
                                         ElementsAre(1)));
}

TEST_F(EngineOverAFormula, AdmitsInTheOrderOfArrivalAsSlotsBecomeFree) {
  Engine engine(decoder, {.slots = 2});
  GenerationConfig two_samples = of_length(2);
  two_samples.do_sample = true;
  two_samples.num_return_sequences = 2;
  submit(engine, {1}, of_length(3));
  submit(engine, {2, 2}, two_samples);      // needs both slots
  submit(engine, {3, 3, 3}, of_length(1));  // would fit, but does not overtake
  finish(engine);
  EXPECT_THAT(decoder.steps, ElementsAre(ElementsAre(1), ElementsAre(1), ElementsAre(1), ElementsAre(2),
                                         ElementsAre(1, 1), ElementsAre(3)));
}

TEST_F(EngineOverAFormula, GivesARequestWithManySequencesWhatGenerateGives) {
  GenerationConfig config = of_length(6);
  config.do_sample = true;
  config.seed = 9;
  config.num_return_sequences = 3;
  Engine engine(decoder);
  const RequestId id = submit(engine, {4, 5}, config);
  finish(engine);
  FormulaDecoder other(tokens_known, 6);
  const GenerateOutput expected = generate(other, std::vector<Ids>{{4, 5}}, config);
  for (std::int64_t i = 0; i < 3; ++i)
    EXPECT_EQ(results.of(id, i).streamed, expected.results[static_cast<std::size_t>(i)].new_ids);
}

TEST_F(EngineOverAFormula, TellsWhyASequenceEnded) {
  GenerationConfig config = of_length(4);
  const Ids all = alone({1, 2}, config);
  Engine engine(decoder);
  const RequestId by_length = submit(engine, {1, 2}, config);
  config.eos_token_id = {{all[1]}};
  const RequestId by_eos = submit(engine, {1, 2}, config);
  finish(engine);
  EXPECT_EQ(results.of(by_length).reason, FinishReason::length);
  EXPECT_EQ(results.of(by_length).new_ids, all);
  EXPECT_EQ(results.of(by_eos).reason, FinishReason::eos);
  EXPECT_EQ(results.of(by_eos).new_ids, Ids(all.begin(), all.begin() + 2));
}

TEST_F(EngineOverAFormula, CancelsWhatRunsAndWhatWaitsAndNothingElse) {
  Engine engine(decoder, {.slots = 2});
  const RequestId runs = submit(engine, {1}, of_length(9)), stays = submit(engine, {2}, of_length(9));
  const RequestId waits = submit(engine, {3}, of_length(9)), last = submit(engine, {4}, of_length(9));
  for (int i = 0; i < 3; ++i) engine.step();
  engine.cancel(runs);
  engine.cancel(waits);
  engine.cancel(12345);
  finish(engine);
  EXPECT_EQ(results.of(runs).reason, FinishReason::cancelled);
  EXPECT_EQ(results.of(runs).new_ids.size(), 3U);
  EXPECT_EQ(results.of(waits).reason, FinishReason::cancelled);
  EXPECT_TRUE(results.of(waits).new_ids.empty());
  EXPECT_EQ(results.of(stays).new_ids, alone({2}, of_length(9)));
  EXPECT_EQ(results.of(last).new_ids, alone({4}, of_length(9)));
}

TEST_F(EngineOverAFormula, EndsWhatIsLeftAsCancelledWhenItGoes) {
  RequestId id = 0;
  {
    Engine engine(decoder);
    id = submit(engine, {1}, of_length(9));
    engine.step();
  }
  EXPECT_EQ(results.of(id).reason, FinishReason::cancelled);
}

TEST_F(EngineOverAFormula, ACallbackThatThrowsEndsItsSequenceAlone) {
  Engine engine(decoder);
  Request bad = results.request({1}, of_length(5));
  bad.on_token = [](std::int64_t, std::int32_t) { throw std::runtime_error("the client is gone"); };
  const RequestId failed = engine.submit(std::move(bad)), good = submit(engine, {2}, of_length(5));
  finish(engine);
  EXPECT_EQ(error_message(results.of(failed).error), "the client is gone");
  EXPECT_EQ(results.of(good).new_ids, alone({2}, of_length(5)));
}

TEST_F(EngineOverAFormula, ASequenceWithoutAPossibleTokenFailsAlone) {
  GenerationConfig impossible = of_length(5);
  impossible.do_sample = true;
  impossible.suppress_tokens.emplace();
  for (std::int32_t id = 0; id < tokens_known; ++id) impossible.suppress_tokens->push_back(id);
  Engine engine(decoder);
  const RequestId failed = submit(engine, {1}, impossible), good = submit(engine, {2}, of_length(5));
  finish(engine);
  EXPECT_THAT(error_message(results.of(failed).error), HasSubstr("rules out every next token"));
  EXPECT_EQ(results.of(good).new_ids, alone({2}, of_length(5)));
}

TEST_F(EngineOverAFormula, AnErrorOfTheModelEndsThoseItFedAndTheEngineGoesOn) {
  Engine engine(decoder, {.slots = 1});
  decoder.fails_at = 2;
  const RequestId failed = submit(engine, {1}, of_length(5)), good = submit(engine, {2}, of_length(5));
  finish(engine);
  EXPECT_EQ(error_message(results.of(failed).error), "no memory");
  EXPECT_EQ(results.of(good).new_ids, alone({2}, of_length(5)));
}

TEST_F(EngineOverAFormula, CallbacksMaySubmitAndCancel) {
  Engine engine(decoder);
  Request first = results.request({1}, of_length(9));
  RequestId first_id = 0, second_id = 0;
  first.on_token = [&](std::int64_t, std::int32_t) {
    if (second_id != 0) return;
    second_id = submit(engine, {2}, of_length(2));
    engine.cancel(first_id);
  };
  first_id = engine.submit(std::move(first));
  finish(engine);
  EXPECT_EQ(results.of(first_id).new_ids.size(), 1U);
  EXPECT_EQ(results.of(second_id).new_ids, alone({2}, of_length(2)));
}

TEST_F(EngineOverAFormula, HasMoreToDoAfterALastCallbackThatSubmits) {
  Engine engine(decoder);
  Request first = results.request({1}, of_length(1));
  RequestId second_id = 0;
  first.on_end = [&](const SequenceEnd&) { second_id = submit(engine, {2}, of_length(2)); };
  engine.submit(std::move(first));
  finish(engine);
  EXPECT_EQ(results.of(second_id).new_ids, alone({2}, of_length(2)));
}

TEST_F(EngineOverAFormula, RefusesWhatCanNotBeDone) {
  Engine engine(decoder, {.slots = 2, .most_waiting = 1});
  const auto refusal = [&](const Ids& prompt, const GenerationConfig& config) {
    try {
      submit(engine, prompt, config);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  GenerationConfig beams = of_length(1), many = of_length(1), invalid = of_length(1);
  beams.num_beams = 2;
  many.do_sample = true;
  many.num_return_sequences = 3;
  invalid.top_p = 2;
  EXPECT_EQ(refusal({50}, of_length(1)), "the prompt: token 50 at position 0 is outside the vocabulary of 50 tokens");
  EXPECT_EQ(refusal({}, of_length(1)), "the prompt is empty and there is no bos_token_id to start from");
  EXPECT_EQ(refusal({1}, beams), "'num_beams' is 2, expected 1: an engine does not search by beams");
  EXPECT_EQ(refusal({1}, many), "'num_return_sequences' is 3, but the engine has 2 slots");
  EXPECT_EQ(refusal({1}, invalid), "'top_p' is 2, expected a number from 0 to 1");
  EXPECT_EQ(refusal({1}, of_length(1)), "none");
  EXPECT_EQ(refusal({2}, of_length(1)), "1 requests wait already, which is the most that may");
  finish(engine);
  EXPECT_EQ(refusal({2}, of_length(1)), "none");
}

TEST_F(EngineOverAFormula, RefusesOptionsWithoutMeaning) {
  EXPECT_THROW(Engine(decoder, {.slots = 0}), Error);
  EXPECT_THROW(Engine(decoder, {.step_tokens = -1}), Error);
  EXPECT_THROW(Engine(decoder, {.prefill_piece = -1}), Error);
  EXPECT_THROW(Engine(decoder, {.most_waiting = 0}), Error);
}

/// Submits a prompt whose state is to be kept, and says its name.
SnapshotId keep(Engine& engine, Results& results, const Ids& prompt) {
  SnapshotId kept = 0;
  Request request = results.request(prompt, of_length(1));
  request.on_snapshot = [&](SnapshotId id) { kept = id; };
  engine.submit(std::move(request));
  while (engine.step()) {
  }
  return kept;
}

TEST_F(EngineOverAFormula, StartsFromASnapshotInsteadOfFeedingItsTokens) {
  Engine engine(decoder, {.slots = 2});
  const SnapshotId kept = keep(engine, results, {1, 2, 3});
  decoder.steps.clear();
  Request same = results.request({1, 2, 3}, of_length(4)), longer = results.request({1, 2, 3, 4}, of_length(3));
  same.from = longer.from = kept;
  const RequestId same_id = engine.submit(std::move(same)), longer_id = engine.submit(std::move(longer));
  finish(engine);
  EXPECT_EQ(results.of(same_id).new_ids, alone({1, 2, 3}, of_length(4)));
  EXPECT_EQ(results.of(longer_id).new_ids, alone({1, 2, 3, 4}, of_length(3)));
  EXPECT_THAT(decoder.steps, testing::Each(ElementsAre(1, 1)));
}

TEST_F(EngineOverAFormula, ASnapshotThatIsGoneOrOfOtherTokensIsAnError) {
  Engine engine(decoder);
  const SnapshotId kept = keep(engine, results, {1, 2, 3});
  const auto error = [&](const Ids& prompt) {
    Request request = results.request(prompt, of_length(1));
    request.from = kept;
    const RequestId id = engine.submit(std::move(request));
    finish(engine);
    return error_message(results.of(id).error);
  };
  EXPECT_EQ(error({1, 2, 4}), "the prompt does not begin with the 3 tokens of snapshot 1");
  EXPECT_EQ(error({1, 2}), "the prompt does not begin with the 3 tokens of snapshot 1");
  EXPECT_EQ(error({1, 2, 3}), "");
  engine.drop_snapshot(kept);
  EXPECT_EQ(error({1, 2, 3}), "snapshot 1 is not kept, or no longer");
}

TEST_F(EngineOverAFormula, FeedsAPrefixThatItKnowsOnlyOnce) {
  Engine engine(decoder, {.prefill_piece = 4, .prefix_cache_bytes = 1000});
  Ids prompt{1, 2, 3, 4, 5, 6, 7, 8, 9};
  submit(engine, prompt, of_length(1));
  finish(engine);
  prompt.back() = 20;
  decoder.steps.clear();
  const RequestId id = submit(engine, prompt, of_length(3));
  const RequestId whole_pieces = submit(engine, {1, 2, 3, 4, 5, 6, 7, 8}, of_length(1));  // one is left to feed
  finish(engine);
  EXPECT_EQ(results.of(id).new_ids, alone(prompt, of_length(3)));
  EXPECT_EQ(results.of(whole_pieces).new_ids, alone({1, 2, 3, 4, 5, 6, 7, 8}, of_length(1)));
  EXPECT_THAT(decoder.steps, ElementsAre(ElementsAre(1, 4), ElementsAre(1), ElementsAre(1)));
  EXPECT_EQ(engine.totals().reused_tokens, 8 + 4);
  EXPECT_EQ(engine.totals().prefill_tokens, 9 + 1 + 4);
}

TEST_F(EngineOverAFormula, KeepsNoMorePrefixesThanTheirBytesAllow) {
  constexpr std::size_t bytes_of_two_pieces = 2 * (4 + 4) * sizeof(std::int32_t);  // ids, and the formula's state
  Engine engine(decoder, {.slots = 1, .prefill_piece = 4, .prefix_cache_bytes = bytes_of_two_pieces});
  const Ids first{1, 1, 1, 1, 9}, second{2, 2, 2, 2, 9}, third{3, 3, 3, 3, 9};
  for (const Ids& prompt : {first, second, first, third}) submit(engine, prompt, of_length(1));
  finish(engine);  // the second was used the longest time ago when the third came
  EXPECT_EQ(engine.totals().reused_tokens, 4);
  for (const Ids& prompt : {first, third}) submit(engine, prompt, of_length(1));
  finish(engine);
  EXPECT_EQ(engine.totals().reused_tokens, 4 + 4 + 4);
  submit(engine, second, of_length(1));
  finish(engine);
  EXPECT_EQ(engine.totals().reused_tokens, 4 + 4 + 4);
}

}  // namespace
}  // namespace mamba2
