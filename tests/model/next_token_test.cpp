// A forward pass that leaves tokens instead of logits: they are those of the logits, also where the host does not know
// them as the next pass begins.

#include <gmock/gmock.h>

#include <algorithm>
#include <optional>

#include "mamba2/base/random.h"
#include "mamba2/cpu/cpu_backend.h"
#include "mamba2/cuda/cuda_backend.h"
#include "mamba2/model/locate.h"
#include "mamba2/reference/reference_backend.h"
#include "support.h"
#include "tests/host_choice.h"

namespace mamba2 {
namespace {

using ::testing::HasSubstr;

/// A model with attention, whose results hang on positions, by the name of its backend.
class NextTokensOf : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const bool on_cuda = std::string_view(GetParam()) == "cuda";
    const cuda::Summary gpu = cuda::describe();
    if (on_cuda && !gpu.usable) GTEST_SKIP() << gpu.problem;
    std::unique_ptr<Backend> backend;
    if (on_cuda)
      backend = make_cuda_backend();
    else
      backend = std::make_unique<test::ChoosingBackend>(make_reference_backend());
    const ModelFiles files = locate_model(test::golden_folder("fork-hybrid"));
    model_.emplace(Mamba2Model(files.read_config(), open_tensors(files.weights), std::move(backend), LoadOptions{}));
  }

  /// Texts that begin so with their next tokens, `steps` of each, from logits on the host.
  std::vector<std::vector<std::int32_t>> from_logits(std::int64_t steps,
                                                     std::vector<std::vector<std::int32_t>> texts = {{5, 9, 2}, {7}}) {
    Mamba2Cache cache = model_->make_cache(std::ssize(texts) + 1);
    for (std::size_t t = 0; t < texts.size(); ++t) {
      std::vector<std::int32_t> fed = texts[t];
      for (std::int64_t step = 0; step < steps; ++step) {
        const SequenceInput input{.input_ids = fed, .slot = static_cast<std::int64_t>(t) + 1};
        const ForwardOutput output = model_->forward({&input, 1}, cache);
        fed = {argmax(output.logits.span<float>())};
        texts[t].push_back(fed[0]);
      }
    }
    return texts;
  }

  std::string message_of(std::span<const SequenceInput> inputs, Mamba2Cache& cache) {
    try {
      model_->start(inputs, cache, output_);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  std::optional<Mamba2ForCausalLM> model_;
  ForwardOutput output_;
};

TEST_P(NextTokensOf, AreThoseOfTheLogitsWhileThePassesRunAhead) {
  constexpr std::int64_t steps = 12;
  const auto want = from_logits(steps);
  Mamba2Cache cache = model_->make_cache(3);
  const TokenRequest greedy;
  const std::vector<std::int32_t> first{5, 9, 2}, second{7}, go_on{chosen_token};
  std::vector<SequenceInput> inputs{{.input_ids = first, .slot = 1, .next = &greedy},
                                    {.input_ids = second, .slot = 2, .next = &greedy}};
  std::vector<std::vector<std::int32_t>> texts{first, second};
  std::vector<std::int32_t> tokens;
  auto read = [&] {
    model_->finish(tokens);
    ASSERT_EQ(tokens.size(), 2U);
    for (std::size_t t = 0; t < 2; ++t) texts[t].push_back(tokens[t]);
  };
  for (std::int64_t step = 0; step < steps; ++step) {
    model_->start(inputs, cache, output_);
    if (step > 0) read();
    for (SequenceInput& input : inputs) input.input_ids = go_on;
  }
  read();
  EXPECT_EQ(texts, want);
}

TEST_P(NextTokensOf, StandBesideLogitsOfOtherSequencesOfACall) {
  const auto want = from_logits(1);
  Mamba2Cache cache = model_->make_cache(3);
  const TokenRequest greedy;
  const std::vector<std::int32_t> first{5, 9, 2}, second{7};
  const SequenceInput inputs[]{{.input_ids = first, .slot = 0, .next = &greedy},
                               {.input_ids = second, .slot = 2},
                               {.input_ids = second, .slot = 1, .next = &greedy}};
  const ForwardOutput output = model_->forward(inputs, cache);
  EXPECT_EQ(output.next_tokens, (std::vector<std::int32_t>{want[0].back(), want[1].back()}));
  ASSERT_EQ(output.logits.view().size(0), 1);
  EXPECT_EQ(argmax(output.logits.span<float>()), want[1].back());
}

TEST_P(NextTokensOf, GoOnInAnyOrderAndBesideTokensOfTheHost) {
  constexpr std::int64_t steps = 9;
  const std::vector<std::vector<std::int32_t>> prompts{{5, 9, 2}, {7}, {1, 2, 3, 4, 5, 6, 7, 8}, {3, 3}, {9}};
  const auto want = from_logits(steps, prompts);
  const TokenRequest greedy;
  const std::vector<std::int32_t> go_on{chosen_token};
  std::vector<std::int32_t> tokens;
  Random random(1);
  for (const std::int64_t piece : {0, 1, 2, 3}) {
    Mamba2Cache cache = model_->make_cache(std::ssize(prompts));
    auto texts = prompts;
    std::vector<bool> fed(texts.size()), in_last(texts.size());
    for (int call = 0; call < 40; ++call) {
      std::vector<std::size_t> order;
      for (std::size_t t = 0; t < texts.size(); ++t)
        if (texts[t].size() < want[t].size() && random.uniform() < 0.7) order.push_back(t);
      for (std::size_t i = 1; i < order.size(); ++i) std::swap(order[i], order[random.next_u32() % (i + 1)]);
      std::vector<SequenceInput> inputs;
      for (const std::size_t t : order) {
        std::span<const std::int32_t> ids = fed[t] ? std::span(texts[t]).last(1) : std::span(texts[t]);
        if (in_last[t] && random.uniform() < 0.8) ids = go_on;
        inputs.push_back({.input_ids = ids, .slot = static_cast<std::int64_t>(t), .next = &greedy});
      }
      model_->forward(inputs, cache, {.piece_tokens = piece}, output_);
      ASSERT_EQ(output_.next_tokens.size(), order.size());
      in_last.assign(texts.size(), false);
      for (std::size_t i = 0; i < order.size(); ++i) {
        texts[order[i]].push_back(output_.next_tokens[i]);
        fed[order[i]] = in_last[order[i]] = true;
      }
    }
    EXPECT_EQ(texts, want) << piece << " tokens at a time";
  }
}

TEST_P(NextTokensOf, GiveWayToTheHostsWhereTheyStood) {
  const TokenRequest greedy;
  const std::vector<std::int32_t> prompt{7}, five{5}, zero{0}, go_on{chosen_token};
  auto logits_after = [&](bool goes_on) {
    Mamba2Cache cache = model_->make_cache(2);
    SequenceInput inputs[]{{.input_ids = prompt, .slot = 0, .next = &greedy}, {.input_ids = five, .slot = 1}};
    model_->forward(inputs, cache, {}, output_);
    const std::vector<std::int32_t> chosen = output_.next_tokens;
    inputs[0].input_ids = goes_on ? go_on : chosen;
    model_->forward(inputs, cache, {}, output_);
    inputs[0] = {.input_ids = zero, .slot = 0};  // 0 is also what stands for a token that the host does not know
    return model_->forward(inputs, cache).logits;
  };
  EXPECT_TRUE(test::same_bits(logits_after(true).view(), logits_after(false).view()));
}

TEST_P(NextTokensOf, GoOnOnlyWhereTheCallBeforeChoseThem) {
  Mamba2Cache cache = model_->make_cache(3);
  const TokenRequest greedy;
  const std::vector<std::int32_t> prompt{7}, go_on{chosen_token};
  const SequenceInput begins{.input_ids = prompt, .slot = 1, .next = &greedy},
      goes_on{.input_ids = go_on, .slot = 1, .next = &greedy},
      elsewhere{.input_ids = go_on, .slot = 2, .next = &greedy};
  EXPECT_THAT(message_of({&goes_on, 1}, cache), HasSubstr("the call before did not choose"));
  model_->start({&begins, 1}, cache, output_);
  EXPECT_THAT(message_of({&elsewhere, 1}, cache), HasSubstr("the call before did not choose"));
  EXPECT_THROW(model_->forward({&begins, 1}, cache), Error) << "a pass is not finished";
  std::vector<std::int32_t> tokens;
  model_->finish(tokens);
  EXPECT_EQ(tokens.size(), 1U);
}

INSTANTIATE_TEST_SUITE_P(Backends, NextTokensOf, ::testing::Values("choosing_reference", "cuda"),
                         [](const auto& of) { return std::string(of.param); });

using NextToken = test::FolderTest;

/// A model with so many words that a call's rows of logits are made in several parts.
TEST_F(NextToken, IsChosenByItsRuleInWhicheverPartOfTheRowsItIs) {
  constexpr std::int64_t vocab_size = 50'000, rows = 400, every = 3;  // 335 rows of f32 are 64 MiB
  test::EditedCheckpoint checkpoint("hf-odd");
  Random random(2);
  const std::string embeddings = "backbone.embeddings.weight";  // the head is tied to it
  const std::int64_t width = checkpoint.at(embeddings).size(1);
  checkpoint.zero(embeddings, DType::f32, {vocab_size, width});
  std::generate_n(checkpoint.at(embeddings).as<float>(), vocab_size * width,
                  [&] { return static_cast<float>(random.normal()); });
  checkpoint.set(R"({"vocab_size": 50000})");
  checkpoint.write(path("model"));
  const ModelFiles files = locate_model(path("model"));
  Mamba2ForCausalLM model(Mamba2Model(files.read_config(), open_tensors(files.weights),
                                      std::make_unique<test::ChoosingBackend>(make_cpu_backend(2)), LoadOptions{}));

  std::vector<std::vector<std::int32_t>> ids(rows);
  std::vector<TokenRequest> requests(rows);
  std::vector<SequenceInput> inputs;
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto at = static_cast<std::size_t>(i);
    ids[at].assign(static_cast<std::size_t>(1 + i % 2), static_cast<std::int32_t>(i * 97 % vocab_size));
    requests[at].rule = {
        .samples = i % 4 == 0 ? 0 : 1, .top_k = 40, .seed = 7, .stream = static_cast<std::uint64_t>(i)};
    if (i % 5 == 0) requests[at].rule.repetition_penalty = 3;
    requests[at].step = i;
    requests[at].history = ids[at];
    inputs.push_back({.input_ids = ids[at], .slot = i});
  }
  Mamba2Cache cache = model.make_cache(rows);
  const ForwardOutput logits = model.forward(inputs, cache);
  std::vector<std::int32_t> want;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (i % every == 0) continue;  // wants its logits beside the others' tokens
    inputs[i].next = &requests[i];
    std::vector<float> scores(vocab_size);
    convert(logits.logits.view()[static_cast<std::int64_t>(i)], Tensor(scores.data(), DType::f32, {vocab_size}));
    want.push_back(test::host_choice(requests[i].rule, requests[i].step, requests[i].history, scores));
  }
  cache.reset();
  const ForwardOutput output = model.forward(inputs, cache);
  EXPECT_EQ(output.next_tokens, want);
  ASSERT_EQ(output.logits.view().size(0), (rows + every - 1) / every);
  for (std::int64_t i = 0; i < output.logits.view().size(0); ++i)
    EXPECT_TRUE(test::same_bits(output.logits.view()[i], logits.logits.view()[i * every]));
}

TEST_F(NextToken, IsRefusedWhereTheBackendDoesNotChoose) {
  Mamba2ForCausalLM model = test::open_lm(test::golden_folder("hf-odd"), "reference");
  Mamba2Cache cache = model.make_cache(1);
  const TokenRequest greedy;
  const std::vector<std::int32_t> prompt{1};
  const SequenceInput input{.input_ids = prompt, .slot = 0, .next = &greedy};
  ForwardOutput output;
  EXPECT_THROW(model.start({&input, 1}, cache, output), Error);
}

}  // namespace
}  // namespace mamba2
