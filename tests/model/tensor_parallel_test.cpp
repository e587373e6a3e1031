// A model that is split over ranks gives what the whole model gives: on the host, where ranks are threads.
#include <gmock/gmock.h>

#include <algorithm>

#include "drawn_model.h"
#include "mamba2/generate/engine.h"
#include "mamba2/generate/generate.h"
#include "mamba2/model/locate.h"
#include "mamba2/reference/reference_backend.h"
#include "support.h"
#include "tests/host_choice.h"

namespace mamba2 {
namespace {

using test::from_to;
using test::Golden;
using test::relative_error;
using ::testing::HasSubstr;

/// Of the largest logit: sums in double in another order, of some hundred terms each, through a few layers.
constexpr double order_of_sums = 1e-13;

struct Case {
  std::string name;
  int ranks;
};

std::vector<Case> cases_with(const std::string& tensor) {
  std::vector<Case> cases;
  for (const std::string& name : test::golden_cases_with(tensor))
    for (const int ranks : {2, 3, 4, 7}) {
      const Mamba2Config config = locate_model(test::golden_folder(name)).read_config();
      const bool divides = config.num_heads % ranks == 0 && config.num_attention_heads % ranks == 0 &&
                           config.mixer_mlp_size % ranks == 0 && config.padded_mlp_size() % ranks == 0;
      if (divides) cases.push_back({name, ranks});
    }
  return cases;
}

std::string readable(const ::testing::TestParamInfo<Case>& info) {
  std::string text = info.param.name + "_over_" + std::to_string(info.param.ranks);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

class SplitModel : public ::testing::TestWithParam<Case> {
 protected:
  std::string folder() const { return test::golden_folder(GetParam().name); }
  LoadOptions split(LoadOptions options = {}) const {
    options.tensor_parallel = GetParam().ranks;
    return options;
  }
  HostTensor logits(const std::string& device, const LoadOptions& options, std::span<const std::int32_t> ids) const {
    Mamba2ForCausalLM model = test::open_lm(folder(), device, options);
    EXPECT_EQ(model.model().ranks(), options.tensor_parallel);
    return test::logits_of(model, ids);
  }

  Golden golden_{GetParam().name};
};

class SplitClassifier : public SplitModel {};

INSTANTIATE_TEST_SUITE_P(Golden, SplitModel, ::testing::ValuesIn(cases_with("single.logits")), readable);
INSTANTIATE_TEST_SUITE_P(Golden, SplitClassifier, ::testing::ValuesIn(cases_with("classify.logits")), readable);

TEST_P(SplitModel, GivesTheLogitsOfTheWholeAndTheGoldenOnes) {
  const std::vector<std::int32_t> ids = golden_.integers("single.input_ids");
  for (const char* norm : {"grouped", "ungrouped"}) {
    const HostTensor whole = logits("reference_f64", {.gated_norm = norm}, ids);
    const HostTensor got = logits("reference_f64", split({.gated_norm = norm}), ids);
    EXPECT_LE(relative_error(got, whole), order_of_sums) << norm;
    const std::string expected = norm == std::string("grouped") ? "single.logits" : "single.logits.ungrouped_norm";
    if (!golden_.has(expected)) continue;
    const Tensor golden = golden_.read(expected);
    EXPECT_LE(relative_error(got, golden.reshape({golden.size(1), golden.size(2)})), 2e-7) << norm;
  }
}

/// In f32 the error against the whole model in double is no worse than twice that of the whole model in f32, beside a
/// rounding of each rank's products and of their sum, in each of a few layers.
TEST_P(SplitModel, IsAsCloseToTheTruthInSinglePrecisionAsTheWhole) {
  constexpr double roundings = 16 * 0x1p-24;
  const std::vector<std::int32_t> ids = golden_.integers("single.input_ids");
  const HostTensor truth = logits("reference_f64", {}, ids);
  for (const char* device : {"reference", "cpu"}) {
    const double plain = relative_error(logits(device, {.threads = 2}, ids), truth);
    EXPECT_LE(relative_error(logits(device, split({.threads = 2}), ids), truth), 2 * plain + roundings) << device;
  }
}

TEST_P(SplitModel, ContinuesGreedilyAsExpected) {
  const std::optional<test::Greedy> greedy = test::greedy_of(GetParam().name);
  if (!greedy) return;
  for (const char* device : {"reference_f64", "reference", "cpu"}) {
    Mamba2ForCausalLM model = test::open_lm(folder(), device, split({.threads = 2}));
    GenerationConfig config;
    config.max_new_tokens = std::ssize(greedy->continuation);
    config.eos_token_id.emplace();
    const GenerateOutput output = generate(model, {&greedy->prompt, 1}, config);
    EXPECT_EQ(output.results.front().new_ids, greedy->continuation) << device;
  }
}

TEST_P(SplitClassifier, GivesTheExpectedLogits) {
  Mamba2ForSequenceClassification model(test::open_model(folder(), "reference_f64", split()));
  const Tensor expected = golden_.read("classify.logits");
  std::vector<std::vector<std::int32_t>> sequences;
  for (std::int64_t r = 0; r < expected.size(0); ++r) {
    auto& ids = sequences.emplace_back(golden_.integers("classify.input_ids", r));
    ids.resize(tokens_before_padding(ids, model.config().pad_token_id));
  }
  const ClassificationOutput output = model.forward(sequences);
  for (std::int64_t r = 0; r < expected.size(0); ++r)
    for (std::int64_t i = 0; i < expected.size(1); ++i)
      EXPECT_NEAR(output.logits[static_cast<std::size_t>(r)][static_cast<std::size_t>(i)],
                  element_as_double(expected[r], i), 2e-6);
}

TEST(SplitModelOfAnyShape, GivesTheLogitsOfTheWhole) {
  test::for_random_cases([] {
    const int ranks = static_cast<int>(from_to(2, 4));
    const Mamba2Config config = test::any_divisible_config(ranks);
    const std::uint64_t seed = test::any_seed();
    auto open = [&](int count) {
      return Mamba2ForCausalLM(
          Mamba2Model(config, std::make_unique<test::DrawnTensors>(config, seed), test::reference_ranks(count), {}));
    };
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 7; ++i) ids.push_back(static_cast<std::int32_t>(from_to(0, 12)));
    Mamba2ForCausalLM whole = open(1), split = open(ranks);
    const HostTensor want = test::logits_of(whole, ids);
    // Drawn weights may leave a norm with little to scale: what is lost in front of it counts for more behind.
    EXPECT_LE(relative_error(test::logits_of(split, ids), want), 1e-10);
    Mamba2Cache cache = split.make_cache(1);
    EXPECT_LE(relative_error(test::logits_in_pieces(split, cache, ids, 3), want), 1e-10);
  });
}

/// Blocks of 32 columns that 2 ranks share evenly, and of which 3 ranks would have parts.
TEST(SplitQuantizedModel, GivesWhatTheWholeGives) {
  Mamba2Config config;
  config.num_hidden_layers = 2;
  config.vocab_size = 64;
  config.hidden_size = 64;
  config.num_heads = 12;
  config.head_dim = 16;
  config.state_size = 8;
  config.tie_word_embeddings = true;
  const std::vector<std::int32_t> ids{3, 1, 4, 1, 5, 9, 2, 6};
  auto logits = [&](int ranks, const char* dtype) {
    Mamba2ForCausalLM model(Mamba2Model(config, std::make_unique<test::DrawnTensors>(config, 7),
                                        test::reference_ranks(ranks), {.dtype = dtype}));
    return test::logits_of(model, ids);
  };
  const HostTensor whole = logits(1, "q8_0");
  EXPECT_LE(relative_error(logits(2, "q8_0"), whole), order_of_sums);
  EXPECT_LE(relative_error(logits(3, "q8_0"), whole), order_of_sums);  // 64 columns each: whole blocks too
  // 16 columns each are no block and held in f16: as close to f32 as the whole model in q8_0 is
  const HostTensor exact = logits(1, "f32");
  EXPECT_LE(relative_error(logits(12, "q8_0"), exact), 2 * relative_error(whole, exact));
}

TEST(SplitQuantizedModel, ReadsTheBlocksOfAFile) {
  const std::string file = MAMBA2_SOURCE_DIR "/tests/data/gguf/hf-groups-q8_0.gguf";
  const std::vector<std::int32_t> ids = Golden("hf-groups").integers("single.input_ids");
  auto logits = [&](int ranks) {
    Mamba2ForCausalLM model = test::open_lm(file, "reference_f64", {.tensor_parallel = ranks});
    return test::logits_of(model, ids);
  };
  const HostTensor whole = logits(1);
  EXPECT_LE(relative_error(logits(2), whole), order_of_sums);
  // A rank of four has 16 of out_proj's 64 columns, half a block, which are held in f16: half a unit of 2^-11 off.
  EXPECT_LE(relative_error(logits(4), whole), 4 * 0x1p-12);
}

class SplitHybrid : public ::testing::Test {
 protected:
  static Mamba2ForCausalLM open(int ranks) {
    return test::open_lm(test::golden_folder("fork-hybrid"), "reference", {.tensor_parallel = ranks});
  }
};

TEST_F(SplitHybrid, KeepsSequencesApartAndTheirStatesTogether) {
  Mamba2ForCausalLM whole = open(1), split = open(2);
  auto texts = [](Mamba2ForCausalLM& model) {
    std::vector<std::vector<std::int32_t>> results;
    Engine engine(model, {.slots = 2, .step_tokens = 5, .prefill_piece = 4, .prefix_cache_bytes = 1 << 20});
    for (std::int32_t i = 0; i < 5; ++i) {
      Request request;
      for (std::int32_t token = 0; token < 6 + 5 * i; ++token) request.prompt_ids.push_back((3 * token + i / 2) % 11);
      request.config.max_new_tokens = 9;
      request.on_end = [&results](const SequenceEnd& end) {
        ASSERT_EQ(end.error, nullptr);
        results.emplace_back(end.new_ids.begin(), end.new_ids.end());
      };
      engine.submit(std::move(request));
    }
    while (engine.step()) {
    }
    return results;
  };
  EXPECT_EQ(texts(split), texts(whole));
}

TEST_F(SplitHybrid, SearchesWithBeamsAsTheWhole) {
  Mamba2ForCausalLM whole = open(1), split = open(2);
  GenerationConfig config;
  config.num_beams = 3;
  config.max_new_tokens = 8;
  const std::vector<std::int32_t> prompt{5, 9, 2};
  EXPECT_EQ(generate(split, {&prompt, 1}, config).results.front().ids,
            generate(whole, {&prompt, 1}, config).results.front().ids);
}

TEST_F(SplitHybrid, ClonesAndResetsTheStatesOfAllRanks) {
  Mamba2ForCausalLM model = open(2);
  const std::vector<std::int32_t> before{5, 9, 2}, after{7, 1};
  Mamba2Cache cache = model.make_cache(1);
  (void)test::logits_in_pieces(model, cache, before, 3);
  Mamba2Cache copy = cache.clone();
  const HostTensor want = test::logits_in_pieces(model, cache, after, 2);
  EXPECT_TRUE(test::same_bits(test::logits_in_pieces(model, copy, after, 2), want));
  copy.reset();
  (void)test::logits_in_pieces(model, copy, before, 3);
  EXPECT_TRUE(test::same_bits(test::logits_in_pieces(model, copy, after, 2), want));
}

TEST_F(SplitHybrid, SaysThatItsStateIsNotSaved) {
  Mamba2ForCausalLM model = open(2);
  EXPECT_THAT(test::error_of([&] { model.make_cache(1).save("never-written"); }), HasSubstr("split over 2 ranks"));
  EXPECT_THAT(test::error_of([&] { model.make_cache(1).load("never-read"); }), HasSubstr("split over 2 ranks"));
}

TEST_F(SplitHybrid, RefusesWrongInputAndGoesOn) {
  Mamba2ForCausalLM model = open(2);
  Mamba2Cache cache = model.make_cache(1);
  const std::vector<std::int32_t> wrong{5, 100000}, right{5, 9, 2};
  const SequenceInput input{.input_ids = wrong};
  EXPECT_THAT(test::error_of([&] { model.forward({&input, 1}, cache); }), HasSubstr("100000"));
  Mamba2ForCausalLM whole = open(1);
  EXPECT_LE(relative_error(test::logits_of(model, right), test::logits_of(whole, right)), 16 * 0x1p-24);
}

/// A rank whose ops fail after some.
class FailingBackend : public test::ChoosingBackend {
 public:
  explicit FailingBackend(std::int64_t after) : ChoosingBackend(make_reference_backend()), left_(after) {}

 protected:
  using ChoosingBackend::compute;
  void compute(const RmsNorm& op) override {
    require(left_-- > 0, "this rank is out of luck");
    ChoosingBackend::compute(op);
  }

 private:
  std::int64_t left_;
};

Mamba2ForCausalLM open_on(std::vector<std::unique_ptr<Backend>> ranks) {
  test::join_in_threads(ranks);
  const ModelFiles files = locate_model(test::golden_folder("fork-hybrid"));
  return Mamba2ForCausalLM(
      Mamba2Model(files.read_config(), open_tensors(files.weights), std::move(ranks), LoadOptions{}));
}

TEST_F(SplitHybrid, EndsWithTheErrorOfTheRankThatFails) {
  for (const std::size_t failing : {0, 1}) {
    std::vector<std::unique_ptr<Backend>> ranks;
    for (std::size_t rank = 0; rank < 2; ++rank)
      ranks.push_back(std::make_unique<FailingBackend>(rank == failing ? 3 : 1000));
    Mamba2ForCausalLM model = open_on(std::move(ranks));
    Mamba2Cache cache = model.make_cache(1);
    const std::vector<std::int32_t> ids{5, 9, 2};
    const SequenceInput input{.input_ids = ids};
    EXPECT_EQ(test::error_of([&] { model.forward({&input, 1}, cache); }), "this rank is out of luck");
    EXPECT_THAT(test::error_of([&] { model.forward({&input, 1}, cache); }), HasSubstr("load the model anew"));
  }
}

/// A rank that would choose other tokens than the first one.
class StubbornBackend : public test::ChoosingBackend {
 public:
  StubbornBackend() : ChoosingBackend(make_reference_backend()) {}

 protected:
  using ChoosingBackend::compute;
  void compute(const ChooseToken& op) override {
    ChoosingBackend::compute(op);
    for (std::int64_t i = 0; i < op.out.elements(); ++i) op.out.as<std::int32_t>()[i] = 0;
  }
};

TEST_F(SplitHybrid, GoesOnFromTheTokensThatTheFirstRankChooses) {
  std::vector<std::unique_ptr<Backend>> ranks;
  ranks.push_back(std::make_unique<test::ChoosingBackend>(make_reference_backend()));
  ranks.push_back(std::make_unique<StubbornBackend>());
  Mamba2ForCausalLM model = open_on(std::move(ranks)), whole = open(1);
  GenerationConfig config;
  config.max_new_tokens = 12;
  for (const bool samples : {false, true}) {
    config.do_sample = samples;
    config.seed = 5;
    const std::vector<std::vector<std::int32_t>> prompts{{5, 9, 2}, {7}};
    const GenerateOutput got = generate(model, prompts, config), want = generate(whole, prompts, config);
    for (std::size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(got.results[i].ids, want.results[i].ids);
  }
}

}  // namespace
}  // namespace mamba2
