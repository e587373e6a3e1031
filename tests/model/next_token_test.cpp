// A forward pass that leaves tokens instead of logits: they are those of the logits, also where the host does not know
// them as the next pass begins.

#include <gmock/gmock.h>

#include <cstdlib>
#include <optional>

#include "mamba2/cuda/cuda_backend.h"
#include "mamba2/generate/sampler.h"
#include "mamba2/model/locate.h"
#include "mamba2/reference/reference_backend.h"
#include "support.h"

namespace mamba2 {
namespace {

using ::testing::HasSubstr;

/// The reference, and tokens chosen greedily.
class ChoosingBackend : public Backend {
 public:
  std::string_view name() const override { return reference_->name(); }
  Device device() const override { return reference_->device(); }
  DType activation_dtype() const override { return reference_->activation_dtype(); }
  std::unique_ptr<PreparedWeight> prepare(WeightRole role, const Tensor& host, DType held_as) override {
    return reference_->prepare(role, host, held_as);
  }
  using Backend::upload;
  void upload(const Tensor& host, const Tensor& on_device) override { reference_->upload(host, on_device); }
  void download(const Tensor& on_device, const Tensor& host) override { reference_->download(on_device, host); }
  void copy(const Tensor& from, const Tensor& to) override { reference_->copy(from, to); }
  void zero(const Tensor& tensor) override { reference_->zero(tensor); }
  bool chooses_tokens() const override { return true; }

 protected:
  void* allocate_bytes(std::size_t bytes) override { return std::calloc(bytes + 1, 1); }
  void free_bytes(void* memory, std::size_t) noexcept override { std::free(memory); }
  void compute(const Embedding& op) override { reference_->run(op); }
  void compute(const Linear& op) override { reference_->run(op); }
  void compute(const RmsNorm& op) override { reference_->run(op); }
  void compute(const GatedRmsNorm& op) override { reference_->run(op); }
  void compute(const CausalConv& op) override { reference_->run(op); }
  void compute(const TimeStep& op) override { reference_->run(op); }
  void compute(const SsdScan& op) override { reference_->run(op); }
  void compute(const GatedActivation& op) override { reference_->run(op); }
  void compute(const Activate& op) override { reference_->run(op); }
  void compute(const Mixer& op) override { reference_->run(op); }
  void compute(const Rope& op) override { reference_->run(op); }
  void compute(const Attention& op) override { reference_->run(op); }
  void compute(const GatherRows& op) override { reference_->run(op); }
  void compute(const CrossEntropy& op) override { reference_->run(op); }
  void compute(const ChooseToken& op) override {
    const auto vocab_size = static_cast<std::size_t>(op.logits.size(1));
    for (std::int64_t i = 0; i < op.logits.size(0); ++i) {
      op.out.as<std::int32_t>()[i] = argmax({op.logits[i].as<float>(), vocab_size});
      ++op.steps.as<std::int32_t>()[i];
    }
    if (op.positions.empty()) return;
    for (std::int64_t i = 0; i < op.positions.elements(); ++i) ++op.positions.as<std::int32_t>()[i];
  }

 private:
  std::unique_ptr<Backend> reference_ = make_reference_backend();
};

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
      backend = std::make_unique<ChoosingBackend>();
    const ModelFiles files = locate_model(test::golden_folder("fork-hybrid"));
    model_.emplace(Mamba2Model(files.read_config(), open_tensors(files.weights), std::move(backend), LoadOptions{}));
  }

  /// The next tokens of two texts, `steps` of each, from logits on the host.
  std::vector<std::vector<std::int32_t>> from_logits(std::int64_t steps) {
    Mamba2Cache cache = model_->make_cache(3);
    std::vector<std::vector<std::int32_t>> texts{{5, 9, 2}, {7}};
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
      model_->start(inputs, cache);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  std::optional<Mamba2ForCausalLM> model_;
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
    model_->start(inputs, cache);
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

TEST_P(NextTokensOf, GoOnOnlyWhereTheCallBeforeChoseThem) {
  Mamba2Cache cache = model_->make_cache(3);
  const TokenRequest greedy;
  const std::vector<std::int32_t> prompt{7}, go_on{chosen_token};
  const SequenceInput begins{.input_ids = prompt, .slot = 1, .next = &greedy},
      goes_on{.input_ids = go_on, .slot = 1, .next = &greedy},
      elsewhere{.input_ids = go_on, .slot = 2, .next = &greedy};
  EXPECT_THAT(message_of({&goes_on, 1}, cache), HasSubstr("did not choose for the same slots"));
  model_->start({&begins, 1}, cache);
  EXPECT_THAT(message_of({&elsewhere, 1}, cache), HasSubstr("did not choose for the same slots"));
  EXPECT_THROW(model_->forward({&begins, 1}, cache), Error) << "a pass is not finished";
  std::vector<std::int32_t> tokens;
  model_->finish(tokens);
  EXPECT_EQ(tokens.size(), 1U);
}

INSTANTIATE_TEST_SUITE_P(Backends, NextTokensOf, ::testing::Values("choosing_reference", "cuda"),
                         [](const auto& of) { return std::string(of.param); });

TEST(NextToken, IsRefusedWhereTheBackendDoesNotChoose) {
  Mamba2ForCausalLM model = test::open_lm(test::golden_folder("hf-odd"), "reference");
  Mamba2Cache cache = model.make_cache(1);
  const TokenRequest greedy;
  const std::vector<std::int32_t> prompt{1};
  const SequenceInput input{.input_ids = prompt, .slot = 0, .next = &greedy};
  EXPECT_THROW(model.start({&input, 1}, cache), Error);
}

}  // namespace
}  // namespace mamba2
