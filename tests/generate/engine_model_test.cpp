// What an engine promises of real models: a sequence's logits are the same bits whatever else the engine does.  On the
// reference and on cpu at every instruction set, by default and deterministic.

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

#include "mamba2/cpu/cpu_backend.h"
#include "mamba2/generate/model_decoder.h"
#include "mamba2/model/locate.h"
#include "mamba2/model/modeling_mamba2.h"
#include "mamba2/reference/reference_backend.h"
#include "tests/generate/engine_support.h"

namespace mamba2 {
namespace {

using test::Ids;
using test::Results;
using test::run_schedule;

/// "reference", or an instruction set of cpu with how it scans: "avx2", "avx2_deterministic".
std::unique_ptr<Backend> make_backend_called(const std::string& name, int threads) {
  if (name == "reference") return make_reference_backend();
  for (const cpu::Isa isa : cpu::available_isas()) {
    const std::string isa_name(cpu::name(isa));
    if (name == isa_name) return make_cpu_backend(threads, isa, cpu::ScanForm::chunked);
    if (name == isa_name + "_deterministic")
      return make_cpu_backend(threads, isa, cpu::ScanForm::sequential, cpu::Bf16Products::always);
  }
  return nullptr;
}

std::vector<std::string> backends() {
  std::vector<std::string> names{"reference"};
  for (const cpu::Isa isa : cpu::available_isas()) {
    names.emplace_back(cpu::name(isa));
    names.push_back(std::string(cpu::name(isa)) + "_deterministic");
  }
  return names;
}

Mamba2ForCausalLM open_model(const std::string& golden, std::unique_ptr<Backend> backend) {
  const ModelFiles files = locate_model(MAMBA2_SOURCE_DIR "/tests/data/golden/" + golden);
  return Mamba2ForCausalLM(
      Mamba2Model(files.read_config(), open_tensors(files.weights), std::move(backend), LoadOptions{}));
}

/// Remembers every row of logits that came of a feed.
class RecordingDecoder : public ModelDecoder {
 public:
  using ModelDecoder::ModelDecoder;
  std::span<float> feed(std::span<const DecoderInput> inputs) override {
    const std::span<float> logits = ModelDecoder::feed(inputs);
    const auto width = static_cast<std::size_t>(vocab_size());
    for (std::size_t i = 0; i < logits.size(); i += width)
      rows.emplace_back(reinterpret_cast<const char*>(logits.data() + i), width * sizeof(float));
    return logits;
  }
  std::vector<std::string> rows;  // their bytes
};

/// A request, when it arrives, and after how many steps of the engine it is cancelled, if ever.
struct Arrival {
  Ids prompt;
  std::int64_t new_tokens = 1;
  bool samples = false;
  std::int64_t at_step = 0;
  std::int64_t cancelled_at_step = -1;
};

GenerationConfig config_of(const Arrival& arrival) {
  GenerationConfig config;
  config.max_new_tokens = arrival.new_tokens;
  config.do_sample = arrival.samples;
  config.seed = 7;
  return config;
}

struct Outcome {
  std::vector<Ids> new_ids;
  std::vector<std::string> rows;  // of logits, sorted
};

Outcome run(Mamba2ForCausalLM& model, const EngineOptions& options, const std::vector<Arrival>& arrivals) {
  RecordingDecoder decoder(model);
  Engine engine(decoder, options);
  Results results;
  const std::vector<RequestId> ids = run_schedule(
      engine, arrivals, [&](const Arrival& arrival) { return results.request(arrival.prompt, config_of(arrival)); });
  Outcome outcome;
  for (const RequestId id : ids) {
    EXPECT_EQ(results.of(id).streamed, results.of(id).new_ids);
    outcome.new_ids.push_back(results.of(id).new_ids);
  }
  std::sort(decoder.rows.begin(), decoder.rows.end());
  outcome.rows = std::move(decoder.rows);
  return outcome;
}

/// What each request gets in an engine of its own.
Outcome run_alone(Mamba2ForCausalLM& model, const EngineOptions& options, const std::vector<Arrival>& arrivals) {
  Outcome all;
  for (Arrival arrival : arrivals) {
    arrival.at_step = 0;
    arrival.cancelled_at_step = -1;
    Outcome one = run(model, options, {arrival});
    all.new_ids.push_back(one.new_ids[0]);
    all.rows.insert(all.rows.end(), one.rows.begin(), one.rows.end());
  }
  std::sort(all.rows.begin(), all.rows.end());
  return all;
}

using Case = std::tuple<std::string, std::string>;  // golden model, backend

class EngineOverAModel : public testing::TestWithParam<Case> {
 protected:
  static constexpr std::int64_t piece = 64;  // the chunk in which cpu scans

  Mamba2ForCausalLM open(int threads) const {
    return open_model(std::get<0>(GetParam()), make_backend_called(std::get<1>(GetParam()), threads));
  }
  bool cuts_count() const {
    const std::string& backend = std::get<1>(GetParam());
    return backend != "reference" && !backend.ends_with("_deterministic");
  }
  Ids text(std::int64_t tokens, std::int64_t seed) const {
    Ids ids;
    for (std::int64_t i = 0; i < tokens; ++i)
      ids.push_back(static_cast<std::int32_t>((i * i + 7 * i + 31 * seed + 3) % model.config().vocab_size));
    return ids;
  }
  std::vector<Arrival> any_arrivals() const {
    std::vector<Arrival> arrivals(static_cast<std::size_t>(*rc::gen::inRange(1, 6)));
    for (Arrival& arrival : arrivals) {
      const std::vector<std::int64_t> lengths{1, 2, 11, 12, 13, 63, 64, 65, 76, 129, 150};
      arrival.prompt = text(*rc::gen::elementOf(lengths), *rc::gen::inRange(0, 3));
      arrival.new_tokens = *rc::gen::inRange(1, 5);
      arrival.samples = *rc::gen::arbitrary<bool>();
      arrival.at_step = *rc::gen::inRange(0, 5);
      arrival.cancelled_at_step = *rc::gen::inRange(-6, 8);
    }
    return arrivals;
  }
  EngineOptions any_options() const {
    return {.slots = *rc::gen::inRange(1, 5), .step_tokens = *rc::gen::inRange(1, 200), .prefill_piece = piece};
  }

  Mamba2ForCausalLM model = open(1);
};

std::string readable(const testing::TestParamInfo<Case>& info) {
  std::string text = std::get<0>(info.param) + "_on_" + std::get<1>(info.param);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

/// Where the processor multiplies bf16, products with bf16 weights depend by default on the number of rows.
std::vector<std::string> backends_for_bf16() {
  std::vector<std::string> names = backends();
  std::erase_if(names, [](const std::string& backend) { return backend == "avx512_bf16" || backend == "amx"; });
  return names;
}

INSTANTIATE_TEST_SUITE_P(Models, EngineOverAModel,
                         testing::Combine(testing::Values("hf-groups", "hf-odd", "fork-hybrid", "state-spaces-d-ssm"),
                                          testing::ValuesIn(backends())),
                         readable);
INSTANTIATE_TEST_SUITE_P(SixteenBitModels, EngineOverAModel,
                         testing::Combine(testing::Values("hf-bf16"), testing::ValuesIn(backends_for_bf16())),
                         readable);

/// Runs a property over random cases until one makes an expectation fail, and shrinks that.
template <class Property>
void for_random_cases(Property&& property) {
  EXPECT_TRUE(rc::check([&] {
    property();
    RC_ASSERT(!testing::Test::HasNonfatalFailure());
  }));
}

TEST_P(EngineOverAModel, AnyScheduleGivesEachSequenceTheBitsThatItGetsAlone) {
  for_random_cases([&] {
    const std::vector<Arrival> arrivals = any_arrivals();
    const Outcome alone = run_alone(model, {.slots = 1, .prefill_piece = piece}, arrivals);
    const Outcome together = run(model, any_options(), arrivals);
    for (std::size_t i = 0; i < arrivals.size(); ++i) {
      ASSERT_LE(together.new_ids[i].size(), alone.new_ids[i].size());
      if (arrivals[i].cancelled_at_step < 0) {
        EXPECT_EQ(together.new_ids[i], alone.new_ids[i]);
      }
      EXPECT_TRUE(std::equal(together.new_ids[i].begin(), together.new_ids[i].end(), alone.new_ids[i].begin()));
    }
    EXPECT_TRUE(std::ranges::includes(alone.rows, together.rows)) << "a sequence has seen logits of its own";
  });
}

TEST_P(EngineOverAModel, ThreadsDoNotChangeABit) {
  Mamba2ForCausalLM threaded = open(3);
  const std::vector<Arrival> arrivals{{text(150, 0), 4}, {text(70, 1), 4, true, 1}, {text(5, 2), 4, false, 2}};
  const EngineOptions options{.slots = 3, .step_tokens = 128, .prefill_piece = piece};
  EXPECT_EQ(run(threaded, options, arrivals).rows, run(model, options, arrivals).rows);
}

TEST_P(EngineOverAModel, APrefixFromTheCacheChangesNoBit) {
  const std::vector<Arrival> arrivals{{text(150, 0), 3}, {text(180, 0), 3, true, 6}, {text(129, 0), 3, false, 7}};
  const EngineOptions cached{.slots = 2, .prefill_piece = piece, .prefix_cache_bytes = 1U << 22};
  const Outcome with = run(model, cached, arrivals), alone = run_alone(model, {.prefill_piece = piece}, arrivals);
  EXPECT_EQ(with.new_ids, alone.new_ids);
  EXPECT_EQ(with.rows, alone.rows);
}

TEST_P(EngineOverAModel, WhereAPromptIsCutChangesNothingOrRoundingAlone) {
  const std::vector<Arrival> arrivals{{text(150, 0), 1}};
  const Outcome whole = run(model, {.prefill_piece = 1024}, arrivals);
  Mamba2ForCausalLM exact = open_model(std::get<0>(GetParam()), make_reference_backend(DType::f64));
  const auto logits_of = [](const Outcome& outcome) {
    std::vector<float> logits(outcome.rows.at(0).size() / sizeof(float));
    std::memcpy(logits.data(), outcome.rows[0].data(), outcome.rows[0].size());
    return logits;
  };
  const std::vector<float> expected = logits_of(run(exact, {.prefill_piece = 1024}, arrivals));
  for (const std::int64_t cut : {1, 7, 64, 100}) {
    const Outcome got = run(model, {.prefill_piece = cut}, arrivals);
    if (!cuts_count()) {
      EXPECT_EQ(got.rows, whole.rows) << cut;
      continue;
    }
    float largest = 0, difference = 0;
    const std::vector<float> logits = logits_of(got);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      largest = std::max(largest, std::abs(expected[i]));
      difference = std::max(difference, std::abs(logits[i] - expected[i]));
    }
    EXPECT_LE(difference, 2e-5F * largest) << cut;  // what every golden case is held to in f32
  }
}

/// Logits and tokens of a prompt that starts from the state kept after its first `kept` tokens.
Outcome run_from_snapshot(Mamba2ForCausalLM& model, const Ids& prompt, std::size_t kept, std::int64_t piece) {
  RecordingDecoder decoder(model);
  Engine engine(decoder, {.slots = 2, .prefill_piece = piece});
  Results results;
  SnapshotId snapshot = 0;
  const Arrival first{Ids(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(kept)), 3}, second{prompt, 3};
  Request keeper = results.request(first.prompt, config_of(first));
  keeper.on_snapshot = [&](SnapshotId id) { snapshot = id; };
  engine.submit(std::move(keeper));
  while (engine.step()) {
  }
  decoder.rows.clear();
  Request forked = results.request(prompt, config_of(second));
  forked.from = snapshot;
  const RequestId id = engine.submit(std::move(forked));
  while (engine.step()) {
  }
  std::sort(decoder.rows.begin(), decoder.rows.end());
  return {{results.of(id).new_ids}, decoder.rows};
}

TEST_P(EngineOverAModel, AForkOfASnapshotGoesOnAsAFreshRun) {
  const Ids prompt = text(150, 0);
  const Outcome fresh = run(model, {.prefill_piece = piece}, {{prompt, 3}});
  // The whole prompt: its first token comes of the kept logits, so there is a row less.
  Outcome fork = run_from_snapshot(model, prompt, prompt.size(), piece);
  EXPECT_EQ(fork.new_ids, fresh.new_ids);
  EXPECT_EQ(fork.rows.size() + 1, fresh.rows.size());
  EXPECT_TRUE(std::ranges::includes(fresh.rows, fork.rows));
  // A part of it: equal bits where it ends at a cut, or cuts do not count.
  for (const std::size_t kept : {64U, 70U, 149U}) {
    if (cuts_count() && kept % piece != 0) continue;
    fork = run_from_snapshot(model, prompt, kept, piece);
    EXPECT_EQ(fork.new_ids, fresh.new_ids) << kept;
    EXPECT_EQ(fork.rows, fresh.rows) << kept;
  }
}

TEST(AKeptRow, IsTheBytesOfItsStateWhateverTheLengthOfThePrompt) {
  Mamba2ForCausalLM model = open_model("hf-odd", make_reference_backend());
  const Mamba2Config& config = model.config();
  const std::int64_t conv_state = config.conv_dim() * (config.conv_kernel - 1);
  const std::int64_t ssm_state = config.num_heads * config.head_dim * config.state_size;
  const auto bytes = static_cast<std::size_t>(config.num_hidden_layers * (conv_state + ssm_state)) * sizeof(float);
  ModelDecoder decoder(model);
  decoder.allocate(3);  // of which a copy takes one
  for (const std::int32_t tokens : {1, 300}) {
    const Ids prompt(static_cast<std::size_t>(tokens), 7);
    const DecoderInput input{.row = 1, .ids = prompt};
    decoder.feed({&input, 1});
    EXPECT_EQ(decoder.keep(1)->bytes(), bytes) << tokens;
  }
}

TEST(EngineOverDynamicRope, FeedsPromptsWhole) {
  Mamba2ForCausalLM model = open_model("fork-rope-dynamic", make_reference_backend());
  Ids prompt;
  for (std::int32_t i = 0; i < 300; ++i) prompt.push_back((i * i + 5) % 64);
  const std::vector<Arrival> arrivals{{prompt, 3}, {prompt, 3, true, 1}};
  EXPECT_EQ(run(model, {.step_tokens = 64, .prefill_piece = 64}, arrivals).rows,
            run(model, {.step_tokens = 1024, .prefill_piece = 1024}, arrivals).rows);
}

}  // namespace
}  // namespace mamba2
