#include <algorithm>
#include <tuple>

#include "mamba2/cuda/cuda_backend.h"
#include "mamba2/model/loss.h"
#include "support.h"

/// The checkpoints of tests/data/golden against values from outside.
namespace mamba2 {
namespace {

using test::Golden;
using test::relative_error;
using test::same_bits;

class EveryCaseAndDevice : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  const std::string& name() const { return std::get<0>(GetParam()); }
  const std::string& device() const { return std::get<1>(GetParam()); }
  bool is_reference() const { return device().starts_with("reference"); }
  std::string folder() const { return test::golden_folder(name()); }
  /// Of the largest absolute value: single precision through a few layers; the expected values' own rounding to f32,
  /// where all else is double; and the room that reordered sums need.
  double bound() const {
    if (device() == "cuda") return 5e-5;
    return device() == "cpu" ? 2e-5 : device() == "reference" ? 1e-5 : 2e-7;
  }

  void expect_close(const Tensor& got, const Tensor& expected, const std::string& what) const {
    EXPECT_LE(relative_error(got, expected), bound()) << what;
  }

  Golden golden_{name()};
};

using SingleSequence = EveryCaseAndDevice;
class SequenceInParts : public EveryCaseAndDevice {};
using PaddedBatch = EveryCaseAndDevice;
using UngroupedNorm = EveryCaseAndDevice;
using Classifier = EveryCaseAndDevice;
class SixteenBitWeights : public EveryCaseAndDevice {};

std::string readable(const ::testing::TestParamInfo<EveryCaseAndDevice::ParamType>& info) {
  std::string text = std::get<0>(info.param) + "_on_" + std::get<1>(info.param);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

std::vector<std::string> gpus() {
  return cuda::describe().usable ? std::vector<std::string>{"cuda"} : std::vector<std::string>{};
}

std::vector<std::string> devices() {
  std::vector<std::string> names{"reference", "reference_f64", "cpu"};
  for (const std::string& gpu : gpus()) names.push_back(gpu);
  return names;
}

/// Dynamic RoPE turns a whole sequence by its length: in parts it is another function, in transformers too.
std::vector<std::string> cases_with_parts() {
  std::vector<std::string> names = test::golden_cases_with("single.logits");
  std::erase(names, "fork-rope-dynamic");
  return names;
}

auto cases_with(const std::string& tensor) {
  return ::testing::Combine(::testing::ValuesIn(test::golden_cases_with(tensor)), ::testing::ValuesIn(devices()));
}

INSTANTIATE_TEST_SUITE_P(Golden, SingleSequence, cases_with("single.logits"), readable);
INSTANTIATE_TEST_SUITE_P(Golden, SequenceInParts,
                         ::testing::Combine(::testing::ValuesIn(cases_with_parts()), ::testing::ValuesIn(devices())),
                         readable);
INSTANTIATE_TEST_SUITE_P(Golden, PaddedBatch, cases_with("padded.logits"), readable);
INSTANTIATE_TEST_SUITE_P(Golden, UngroupedNorm, cases_with("single.logits.ungrouped_norm"), readable);
INSTANTIATE_TEST_SUITE_P(Golden, Classifier, cases_with("classify.logits"), readable);

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SixteenBitWeights);
INSTANTIATE_TEST_SUITE_P(Golden, SixteenBitWeights,
                         ::testing::Combine(::testing::ValuesIn(test::golden_cases_with("single.logits")),
                                            ::testing::ValuesIn(gpus())),
                         readable);

/// (tokens, width) as (1, tokens, width), as the goldens have it.
Tensor as_batch_of_one(const Tensor& tensor) {
  return tensor.reshape({1, tensor.size(0), tensor.size(1)});
}

TEST_P(SingleSequence, GivesTheExpectedLogitsHiddenStatesAndStates) {
  Mamba2ForCausalLM model = test::open_lm(folder(), device());
  Mamba2Cache cache = model.make_cache(1);
  const std::vector<std::int32_t> ids = golden_.integers("single.input_ids");
  const SequenceInput input{.input_ids = ids, .logits_to_keep = all_positions};
  const ForwardOutput output =
      model.forward({&input, 1}, cache, {.output_hidden_states = true, .output_last_hidden_state = true});

  expect_close(as_batch_of_one(output.logits), golden_.read("single.logits"), "logits");
  expect_close(as_batch_of_one(output.last_hidden_state), golden_.read("single.last_hidden_state"),
               "last_hidden_state");
  ASSERT_EQ(static_cast<std::int64_t>(output.hidden_states.size()), model.config().num_hidden_layers + 1);
  for (std::int64_t i = 0; i < model.config().num_hidden_layers; ++i) {
    const std::string layer = std::to_string(i);
    expect_close(as_batch_of_one(output.hidden_states[static_cast<std::size_t>(i + 1)]),
                 golden_.read("single.hidden_states." + layer), "hidden_states." + layer);
    const LayerState& state = cache.layer(i);
    for (const auto& [prefix, tensor] :
         {std::pair{"conv_state.", &state.conv_state}, {"ssm_state.", &state.ssm_state}}) {
      const std::string key = "single." + (prefix + layer);
      ASSERT_TRUE(golden_.has(key) || tensor->view.empty() || state.conv_state.view.empty()) << key;
      if (golden_.has(key))
        expect_close(test::on_host(model.model().backend(), tensor->view), golden_.read(key), prefix + layer);
    }
  }
}

TEST_P(SequenceInParts, GivesWhatTheWholeGives) {
  Mamba2ForCausalLM model = test::open_lm(folder(), device());
  const std::vector<std::int32_t> ids = golden_.integers("single.input_ids");
  const HostTensor whole = test::logits_of(model, ids);
  for (const std::size_t piece : {std::size_t{1}, std::size_t{5}}) {
    Mamba2Cache cache = model.make_cache(1);
    const HostTensor parts = test::logits_in_pieces(model, cache, ids, piece);
    if (is_reference())
      EXPECT_TRUE(same_bits(parts, whole)) << piece << " at a time";
    else
      expect_close(parts, whole, std::to_string(piece) + " at a time");
  }
}

TEST_P(SingleSequence, GivesTheExpectedLoss) {
  Mamba2ForCausalLM model = test::open_lm(folder(), device());
  const HostTensor logits = test::logits_of(model, golden_.integers("single.input_ids"));
  const std::vector<std::int32_t> labels = golden_.integers("loss.labels");
  const double loss = causal_lm_loss(logits, labels, static_cast<std::int64_t>(labels.size()));
  EXPECT_NEAR(loss, element_as_double(golden_.read("loss.value"), 0), bound() * loss);
}

TEST_P(SequenceInParts, ContinuesGreedilyAsExpected) {
  const std::optional<test::Greedy> greedy = test::greedy_of(name());
  ASSERT_TRUE(greedy);
  Mamba2ForCausalLM model = test::open_lm(folder(), device());
  Mamba2Cache cache = model.make_cache(1);
  std::vector<std::int32_t> next = greedy->prompt, got;
  while (got.size() < greedy->continuation.size()) {
    const SequenceInput input{.input_ids = next};
    const ForwardOutput output = model.forward({&input, 1}, cache);
    std::int64_t best = 0;
    for (std::int64_t i = 0; i < model.config().vocab_size; ++i)
      if (element_as_double(output.logits, i) > element_as_double(output.logits, best)) best = i;
    next = {static_cast<std::int32_t>(best)};
    got.push_back(next.front());
  }
  EXPECT_EQ(got, greedy->continuation);
}

TEST_P(SixteenBitWeights, GiveWhatTheReferenceGivesWithThem) {
  const std::vector<std::int32_t> ids = golden_.integers("single.input_ids");
  for (const char* dtype : {"bf16", "f16"}) {
    Mamba2ForCausalLM model = test::open_lm(folder(), device(), {.dtype = dtype, .deterministic = true});
    Mamba2ForCausalLM truth = test::open_lm(folder(), "reference_f64", {.dtype = dtype});
    expect_close(test::logits_of(model, ids), test::logits_of(truth, ids), dtype);
  }
}

TEST_P(PaddedBatch, GivesTheExpectedLogitsAndWhatEachRowGivesAlone) {
  Mamba2ForCausalLM model = test::open_lm(folder(), device());
  std::vector<std::vector<std::int32_t>> rows;
  std::vector<SequenceInput> inputs;
  const std::int64_t count = golden_.rows("padded.input_ids");
  for (std::int64_t r = 0; r < count; ++r) {
    const std::vector<std::int32_t> ids = golden_.integers("padded.input_ids", r),
                                    mask = golden_.integers("padded.attention_mask", r);
    auto& row = rows.emplace_back();
    for (std::size_t t = 0; t < ids.size(); ++t)
      if (mask[t] != 0) row.push_back(ids[t]);
  }
  for (std::int64_t r = 0; r < count; ++r)
    inputs.push_back({.input_ids = rows[static_cast<std::size_t>(r)], .slot = r, .logits_to_keep = all_positions});
  Mamba2Cache cache = model.make_cache(count);
  const ForwardOutput output = model.forward(inputs, cache);

  const Tensor expected = golden_.read("padded.logits");
  std::int64_t first = 0;
  for (std::int64_t r = 0; r < count; ++r) {
    const auto length = static_cast<std::int64_t>(rows[static_cast<std::size_t>(r)].size());
    const Tensor got = output.logits.view().slice(0, first, length);
    first += length;
    // left padding: what the mask leaves stands at the end
    expect_close(got, expected[r].slice(0, expected.size(1) - length, length), "row " + std::to_string(r));
    const HostTensor alone = test::logits_of(model, rows[static_cast<std::size_t>(r)]);
    if (is_reference()) {
      EXPECT_TRUE(same_bits(got, alone)) << "row " << r;
    }
  }
}

TEST_P(UngroupedNorm, GivesTheExpectedLogits) {
  Mamba2ForCausalLM model = test::open_lm(folder(), device(), {.gated_norm = "ungrouped"});
  const HostTensor logits = test::logits_of(model, golden_.integers("single.input_ids"));
  expect_close(as_batch_of_one(logits), golden_.read("single.logits.ungrouped_norm"), "logits");
}

TEST_P(Classifier, GivesTheExpectedLogitsAndLoss) {
  Mamba2ForSequenceClassification model(test::open_model(folder(), device()));
  const std::int64_t count = golden_.rows("classify.input_ids");
  const std::vector<std::int32_t> lengths = golden_.integers("classify.lengths");
  std::vector<std::vector<std::int32_t>> sequences;
  for (std::int64_t r = 0; r < count; ++r) {
    auto& ids = sequences.emplace_back(golden_.integers("classify.input_ids", r));
    ids.resize(tokens_before_padding(ids, model.config().pad_token_id));
    EXPECT_EQ(static_cast<std::int32_t>(ids.size()), lengths[static_cast<std::size_t>(r)]);
  }
  const ClassificationOutput output = model.forward(sequences);

  const Tensor expected = golden_.read("classify.logits"), stored = golden_.read("loss.labels");
  const HostTensor got(DType::f64, expected.shape);
  std::vector<std::vector<double>> labels;
  for (std::int64_t r = 0; r < count; ++r) {
    const std::vector<double>& row = output.logits[static_cast<std::size_t>(r)];
    ASSERT_EQ(static_cast<std::int64_t>(row.size()), expected.size(1));
    std::copy(row.begin(), row.end(), got.view()[r].as<double>());
    auto& label = labels.emplace_back();
    const std::int64_t width = stored.rank() == 2 ? stored.size(1) : 1;
    for (std::int64_t i = 0; i < width; ++i) label.push_back(element_as_double(stored, r * width + i));
  }
  expect_close(got, expected, "logits");
  const double loss = classification_loss(model.problem_type(stored.dtype == DType::i64), output.logits, labels);
  EXPECT_NEAR(loss, element_as_double(golden_.read("loss.value"), 0), 2 * bound() * std::max(loss, 1.0));
}

}  // namespace
}  // namespace mamba2
