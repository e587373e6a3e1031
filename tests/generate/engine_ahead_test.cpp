// The engine starts a step before it has seen the tokens of the last one: that must show in nothing but the time.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "mamba2/cpu/cpu_backend.h"
#include "mamba2/generate/generate.h"
#include "mamba2/generate/model_decoder.h"
#include "mamba2/model/locate.h"
#include "mamba2/model/modeling_mamba2.h"
#include "mamba2/reference/reference_backend.h"
#include "tests/generate/choosing_decoder.h"
#include "tests/generate/engine_support.h"

namespace mamba2 {
namespace {

using test::error_message;
using test::Ids;
using test::Result;
using test::Results;
using test::run_schedule;
using testing::HasSubstr;

constexpr std::int64_t tokens_known = 50;

/// Token i reads as a letter, so that a stop string is a few tokens long.
MakeTextDecoder letters() {
  std::vector<std::string> texts;
  for (int i = 0; i < tokens_known; ++i) texts.emplace_back(1, static_cast<char>('a' + i % 26));
  return text_decoder_of(std::move(texts));
}

/// A request, when it arrives, and after how many steps of the engine it is cancelled, if ever.
struct Arrival {
  Ids prompt;
  GenerationConfig config;
  std::int64_t at_step = 0;
  std::int64_t cancelled_at_step = -1;
};

/// Of every sequence of every arrival.
std::vector<Result> run(Decoder& decoder, const EngineOptions& options, const std::vector<Arrival>& arrivals) {
  Engine engine(decoder, options);
  Results results;
  const std::vector<RequestId> ids = run_schedule(engine, arrivals, [&](const Arrival& arrival) {
    Request request = results.request(arrival.prompt, arrival.config);
    if (arrival.config.stop_strings) request.make_text_decoder = letters();
    return request;
  });
  std::vector<Result> all;
  for (std::size_t i = 0; i < arrivals.size(); ++i)
    for (std::int64_t s = 0; s < arrivals[i].config.num_return_sequences.value_or(1); ++s)
      all.push_back(results.of(ids[i], s));
  return all;
}

/// What each gets in an engine of its own over a decoder that gives logits.
std::vector<Result> run_alone(Decoder& decoder, std::int64_t piece, const std::vector<Arrival>& arrivals) {
  std::vector<Result> all;
  for (Arrival arrival : arrivals) {
    arrival.at_step = 0;
    arrival.cancelled_at_step = -1;
    const std::vector<Result> one = run(decoder, {.slots = 3, .prefill_piece = piece}, {arrival});
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

void expect_what_each_gets_alone(const std::vector<Result>& got, const std::vector<Result>& alone,
                                 const std::vector<Arrival>& arrivals) {
  std::size_t place = 0;
  for (const Arrival& arrival : arrivals)
    for (std::int64_t s = 0; s < arrival.config.num_return_sequences.value_or(1); ++s, ++place) {
      const Result &mine = got.at(place), &expected = alone.at(place);
      EXPECT_EQ(mine.streamed, mine.new_ids);
      EXPECT_EQ(error_message(mine.error), "");
      if (mine.reason != FinishReason::cancelled) {
        EXPECT_EQ(mine.new_ids, expected.new_ids);
        EXPECT_EQ(mine.reason, expected.reason);
        continue;
      }
      EXPECT_GE(arrival.cancelled_at_step, 0);
      ASSERT_LE(mine.new_ids.size(), expected.new_ids.size());
      EXPECT_TRUE(std::equal(mine.new_ids.begin(), mine.new_ids.end(), expected.new_ids.begin()));
    }
}

/// Now and then with what no rule says, with what a rule can't go ahead of, and with several sequences.
GenerationConfig any_config() {
  GenerationConfig c;
  c.max_new_tokens = *rc::gen::inRange(1, 9);
  c.seed = *rc::gen::inRange<std::uint64_t>(0, 5);
  c.do_sample = *rc::gen::arbitrary<bool>();
  auto seldom = [] { return *rc::gen::inRange(0, 6) == 0; };
  if (seldom()) c.repetition_penalty = 1.5;
  if (seldom()) c.no_repeat_ngram_size = 2;
  if (*c.do_sample) {
    c.top_k = *rc::gen::element(0, 20);
    if (seldom()) c.num_return_sequences = *rc::gen::inRange(2, 4);
  }
  // end tokens that the formula writes now and then
  Ids ends;
  for (std::int32_t id = *rc::gen::inRange(0, 12); id < tokens_known; id += 12) ends.push_back(id);
  if (*rc::gen::arbitrary<bool>()) c.eos_token_id = ends;
  if (seldom()) c.stop_strings = std::vector<std::string>{"a", "q", "zb"};
  return c;
}

std::vector<Arrival> any_arrivals(std::int64_t most_prompt) {
  std::vector<Arrival> arrivals(static_cast<std::size_t>(*rc::gen::inRange(1, 7)));
  for (Arrival& arrival : arrivals) {
    const std::int64_t tokens = *rc::gen::inRange<std::int64_t>(1, most_prompt + 1);
    const std::int64_t seed = *rc::gen::inRange(0, 3);
    for (std::int64_t i = 0; i < tokens; ++i)
      arrival.prompt.push_back(static_cast<std::int32_t>((i * i + 7 * i + 31 * seed + 3) % tokens_known));
    arrival.config = any_config();
    arrival.at_step = *rc::gen::inRange(0, 8);
    arrival.cancelled_at_step = *rc::gen::inRange(-10, 12);
  }
  return arrivals;
}

TEST(EngineOverAFormulaThatRunsAhead, AnyScheduleGivesEachSequenceWhatItGetsAlone) {
  EXPECT_TRUE(rc::check([] {
    const std::vector<Arrival> arrivals = any_arrivals(11);
    FormulaDecoder gives_logits(tokens_known, 6);
    ChoosingDecoder chooses(tokens_known, 6);
    const EngineOptions options{.slots = *rc::gen::inRange(3, 6),
                                .step_tokens = *rc::gen::inRange(1, 20),
                                .prefill_piece = *rc::gen::inRange(1, 6),
                                .prefix_cache_bytes = *rc::gen::element(0U, 200U)};
    expect_what_each_gets_alone(run(chooses, options, arrivals),
                                run_alone(gives_logits, options.prefill_piece, arrivals), arrivals);
    EXPECT_EQ(chooses.untaken(), 0U);
    EXPECT_LE(chooses.most_untaken, 2U);
    RC_ASSERT(!testing::Test::HasNonfatalFailure());
  }));
}

GenerationConfig of_length(std::int64_t new_tokens) {
  GenerationConfig config;
  config.max_new_tokens = new_tokens;
  return config;
}

class EngineThatRunsAhead : public testing::Test {
 protected:
  Ids alone(const Ids& prompt, const GenerationConfig& config) {
    FormulaDecoder other(tokens_known, 6);
    return generate(other, std::vector<Ids>{prompt}, config).results[0].new_ids;
  }
  static void finish(Engine& engine) {
    while (engine.step()) {
    }
  }

  ChoosingDecoder decoder{tokens_known, 6};
  Results results;
};

TEST_F(EngineThatRunsAhead, FeedsNothingInVainWhereALengthEndsASequence) {
  Engine engine(decoder);
  const RequestId id = engine.submit(results.request({1, 2}, of_length(5)));
  finish(engine);
  EXPECT_EQ(results.of(id).new_ids, alone({1, 2}, of_length(5)));
  EXPECT_EQ(decoder.feeds(), 5U);
  EXPECT_EQ(decoder.went_on, 4U);
  EXPECT_EQ(decoder.most_untaken, 2U);
}

TEST_F(EngineThatRunsAhead, DropsTheOneStepThatIsUnderWayAsAnEndTokenIsSeen) {
  const Ids all = alone({1, 2}, of_length(9));
  GenerationConfig config = of_length(9);
  config.eos_token_id = {{all[3]}};
  Engine engine(decoder, {.slots = 1});
  const RequestId first = engine.submit(results.request({1, 2}, config));
  const RequestId second = engine.submit(results.request({5}, of_length(3)));  // in the row of the first
  finish(engine);
  const auto end = std::find(all.begin(), all.end(), all[3]) + 1;
  EXPECT_EQ(results.of(first).new_ids, Ids(all.begin(), end));
  EXPECT_EQ(results.of(first).reason, FinishReason::eos);
  EXPECT_EQ(results.of(second).new_ids, alone({5}, of_length(3)));
  EXPECT_EQ(decoder.chosen, results.of(first).new_ids.size() + 1 + 3);
}

TEST_F(EngineThatRunsAhead, WaitsWhereARuleLooksAtTheLastToken) {
  GenerationConfig config = of_length(5);
  config.repetition_penalty = 1.3;
  Engine engine(decoder);
  const RequestId id = engine.submit(results.request({1, 2}, config));
  finish(engine);
  EXPECT_EQ(results.of(id).new_ids, alone({1, 2}, config));
  EXPECT_EQ(decoder.chosen, 5U);
  EXPECT_EQ(decoder.most_untaken, 1U);
}

TEST_F(EngineThatRunsAhead, EndsACancelledRequestWithWhatWasSeen) {
  Engine engine(decoder);
  const RequestId id = engine.submit(results.request({1, 2}, of_length(9)));
  for (int i = 0; i < 4; ++i) engine.step();
  engine.cancel(id);
  finish(engine);
  const Ids all = alone({1, 2}, of_length(9));
  EXPECT_EQ(results.of(id).reason, FinishReason::cancelled);
  EXPECT_EQ(results.of(id).new_ids, Ids(all.begin(), all.begin() + 3));
  EXPECT_EQ(decoder.untaken(), 0U);
}

TEST_F(EngineThatRunsAhead, EndsASequenceWhoseCallbackThrowsAlone) {
  Engine engine(decoder);
  Request bad = results.request({1}, of_length(5));
  bad.on_token = [](std::int64_t, std::int32_t) { throw std::runtime_error("the client is gone"); };
  const RequestId failed = engine.submit(std::move(bad)), good = engine.submit(results.request({2}, of_length(5)));
  finish(engine);
  EXPECT_EQ(error_message(results.of(failed).error), "the client is gone");
  EXPECT_EQ(results.of(good).new_ids, alone({2}, of_length(5)));
}

TEST_F(EngineThatRunsAhead, EndsASequenceWhoseScoresAreRefusedWithWhatCameBefore) {
  Engine engine(decoder);
  const RequestId early = engine.submit(results.request({1}, of_length(6)));
  for (int i = 0; i < 3; ++i) engine.step();
  decoder.scores_are_nan = true;
  engine.step();
  decoder.scores_are_nan = false;
  const RequestId late = engine.submit(results.request({2}, of_length(4)));
  finish(engine);
  EXPECT_THAT(error_message(results.of(early).error), HasSubstr("NaN"));
  EXPECT_EQ(results.of(early).new_ids.size(), 3U);
  EXPECT_EQ(results.of(late).new_ids, alone({2}, of_length(4)));
}

TEST_F(EngineThatRunsAhead, EndsThoseWhoseTokensCanNotBeHadAndGoesOn) {
  Engine engine(decoder, {.slots = 1});
  const RequestId failed = engine.submit(results.request({1}, of_length(5)));
  const RequestId good = engine.submit(results.request({2}, of_length(5)));
  engine.step();
  decoder.fails_to_give = true;
  engine.step();
  decoder.fails_to_give = false;
  finish(engine);
  EXPECT_EQ(error_message(results.of(failed).error), "the device is gone");
  EXPECT_EQ(results.of(good).new_ids, alone({2}, of_length(5)));
}

TEST_F(EngineThatRunsAhead, TakesWhatIsUnderWayAsItGoes) {
  {
    Engine engine(decoder);
    engine.submit(results.request({1}, of_length(5)));
    engine.step();
    EXPECT_EQ(decoder.untaken(), 1U);
  }
  EXPECT_EQ(decoder.untaken(), 0U);
}

std::unique_ptr<Backend> backend_called(const std::string& name) {
  if (name == "cpu") return make_cpu_backend(2);
  return make_reference_backend();
}

Mamba2ForCausalLM open_model(const std::string& golden, std::unique_ptr<Backend> backend) {
  const ModelFiles files = locate_model(MAMBA2_SOURCE_DIR "/tests/data/golden/" + golden);
  return Mamba2ForCausalLM(
      Mamba2Model(files.read_config(), open_tensors(files.weights), std::move(backend), LoadOptions{}));
}

using Case = std::tuple<std::string, std::string>;  // golden model, backend
class EngineOverAModelThatRunsAhead : public testing::TestWithParam<Case> {};

std::string readable(const testing::TestParamInfo<Case>& of) {
  std::string text = std::get<0>(of.param) + "_on_" + std::get<1>(of.param);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

INSTANTIATE_TEST_SUITE_P(Models, EngineOverAModelThatRunsAhead,
                         testing::Combine(testing::Values("hf-groups", "fork-hybrid"),
                                          testing::Values("reference", "cpu")),
                         readable);

TEST_P(EngineOverAModelThatRunsAhead, AnyScheduleGivesEachSequenceWhatItGetsAlone) {
  const auto& [golden, backend] = GetParam();
  Mamba2ForCausalLM gives_logits = open_model(golden, backend_called(backend));
  Mamba2ForCausalLM chooses = open_model(golden, std::make_unique<test::ChoosingBackend>(backend_called(backend)));
  ASSERT_GE(chooses.config().vocab_size, tokens_known);
  EXPECT_TRUE(rc::check([&] {
    std::vector<Arrival> arrivals = any_arrivals(150);
    for (Arrival& arrival : arrivals) arrival.config.stop_strings.reset();  // its vocabulary has no letters
    constexpr std::int64_t piece = 64;                                      // the chunk in which cpu scans
    const EngineOptions options{.slots = *rc::gen::inRange(3, 6),
                                .step_tokens = *rc::gen::inRange(1, 200),
                                .prefill_piece = piece,
                                .prefix_cache_bytes = *rc::gen::element(0U, 1U << 22)};
    ModelDecoder ahead(chooses), alone(gives_logits);
    expect_what_each_gets_alone(run(ahead, options, arrivals), run_alone(alone, piece, arrivals), arrivals);
    RC_ASSERT(!testing::Test::HasNonfatalFailure());
  }));
}

}  // namespace
}  // namespace mamba2
