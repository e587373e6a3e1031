// Decoding with inputs left pending beside the states: what comes out is what it is where the states are kept up to
// date, and nobody else sees them behind.
#include <gtest/gtest.h>

#include <algorithm>

#include "mamba2/base/random.h"
#include "mamba2/cuda/cuda_backend.h"
#include "mamba2/generate/sampler.h"
#include "mamba2/model/locate.h"
#include "support.h"

namespace mamba2 {
namespace {

/// f32 with sums in another order, over a few layers, as wherever the cpu backend is held against the reference.
constexpr double reordering = 2e-5;

class PendingInputsOf : public ::testing::TestWithParam<const char*> {
 protected:
  std::vector<std::int32_t> text(std::int64_t tokens, std::int64_t seed) const {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < tokens; ++i)
      ids.push_back(static_cast<std::int32_t>((i * i + 7 * i + 31 * seed + 3) % pending_.config().vocab_size));
    return ids;
  }

  Mamba2ForCausalLM pending_ = test::open_lm(test::golden_folder(GetParam()), "pending");
  Mamba2ForCausalLM plain_ = test::open_lm(test::golden_folder(GetParam()), "reference");
};

std::string readable(const ::testing::TestParamInfo<const char*>& info) {
  std::string text = info.param;
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

INSTANTIATE_TEST_SUITE_P(Models, PendingInputsOf, ::testing::Values("hf-odd", "fork-hybrid", "state-spaces-d-ssm"),
                         readable);

TEST_P(PendingInputsOf, GiveTheLogitsOfStatesThatAreUpToDateInAnyMixture) {
  Random random(5);
  constexpr std::size_t slots = 4;
  Mamba2Cache behind = pending_.make_cache(slots), up_to_date = plain_.make_cache(slots);
  for (int call = 0; call < 30; ++call) {
    std::vector<std::vector<std::int32_t>> texts;
    std::vector<SequenceInput> inputs;
    for (std::size_t slot = 0; slot < slots; ++slot) {
      const std::int64_t length = random.uniform() < 0.8 ? 1 : random.next_u32() % 7;
      texts.push_back(text(length, call + static_cast<std::int64_t>(slot)));
    }
    for (std::size_t slot = 0; slot < slots; ++slot)
      if (random.uniform() < 0.8) inputs.push_back({.input_ids = texts[slot], .slot = static_cast<std::int64_t>(slot)});
    // those of one token stand first now and then, as in an engine's steps
    if (random.uniform() < 0.7)
      std::ranges::stable_sort(inputs, {}, [](const SequenceInput& input) { return input.input_ids.size(); });
    const HostTensor got = std::move(pending_.forward(inputs, behind).logits);
    const HostTensor want = std::move(plain_.forward(inputs, up_to_date).logits);
    if (want.view().elements() > 0) {
      EXPECT_LE(test::relative_error(got, want), reordering) << "call " << call;
    }
  }
}

TEST_P(PendingInputsOf, AreInTheStatesOnceThoseAreSettled) {
  Mamba2Cache behind = pending_.make_cache(2), up_to_date = plain_.make_cache(2);
  for (const std::int32_t& id : text(8, 0))
    for (const std::int64_t slot : {0, 1}) {
      const SequenceInput input{.input_ids = {&id, 1}, .slot = slot};
      pending_.forward({&input, 1}, behind);
      plain_.forward({&input, 1}, up_to_date);
    }
  auto differing = [&] {
    int count = 0;
    for (std::int64_t i = 0; i < behind.layers(); ++i)
      if (const Tensor& want = up_to_date.layer(i).ssm_state.view; !want.empty())
        count += test::relative_error(behind.layer(i).ssm_state.view, want) > reordering ? 1 : 0;
    return count;
  };
  EXPECT_GT(differing(), 0) << "nothing was pending";
  behind.settle();
  EXPECT_EQ(differing(), 0);
}

TEST_P(PendingInputsOf, CountAmongASlotsBytesOnceThereAreAny) {
  Mamba2Cache cache = pending_.make_cache(2);
  const std::size_t before = cache.bytes_per_slot();
  const std::vector<std::int32_t> ids = text(1, 0);
  const SequenceInput input{.input_ids = ids};
  pending_.forward({&input, 1}, cache);
  std::size_t bytes = 0;
  for (std::int64_t i = 0; i < cache.layers(); ++i)
    for (const auto member :
         {&LayerState::conv_state, &LayerState::ssm_state, &LayerState::k_cache, &LayerState::v_cache,
          &LayerState::pending_input, &LayerState::pending_B, &LayerState::pending_log_decay})
      if (const Tensor& tensor = (cache.layer(i).*member).view; !tensor.empty()) bytes += tensor.bytes();
  EXPECT_EQ(cache.bytes_per_slot(), bytes / 2);
  EXPECT_GT(bytes / 2, before);
}

/// A trained model on the GPU, with its states as asked for.
Mamba2ForCausalLM classics_on_cuda(std::int64_t least_pending_bytes, const std::string& state_dtype) {
  const ModelFiles files = locate_model(MAMBA2_SOURCE_DIR "/models/classics-5m");
  LoadOptions options;
  options.dtype = "f32";  // else products round their inputs, by which near ones part
  options.state_dtype = state_dtype;
  return Mamba2ForCausalLM(Mamba2Model(files.read_config(), open_tensors(files.weights),
                                       make_cuda_backend(cuda::Precision::fast, least_pending_bytes), options));
}

/// What a model says to 16 beginnings of 3 to 18 tokens, all at once; and how far its first `steps` choices' logits are
/// from those of another.
struct Said {
  std::vector<std::vector<std::int32_t>> texts;
  std::vector<HostTensor> logits;  // step by step
};

Said say(Mamba2ForCausalLM& model, std::int64_t steps, const Said* after = nullptr) {
  constexpr std::size_t sequences = 16;
  Said said;
  Random random(9);
  for (std::size_t s = 0; s < sequences; ++s) {
    std::vector<std::int32_t>& ids = said.texts.emplace_back();
    for (std::size_t i = 0; i < 3 + s; ++i) ids.push_back(static_cast<std::int32_t>(2 + random.next_u32() % 8000));
  }
  Mamba2Cache cache = model.make_cache(sequences);
  std::vector<std::size_t> fed(sequences);
  for (std::int64_t step = 0; step < steps; ++step) {
    std::vector<SequenceInput> inputs;
    for (std::size_t s = 0; s < sequences; ++s) {
      inputs.push_back({.input_ids = std::span(said.texts[s]).subspan(fed[s]), .slot = static_cast<std::int64_t>(s)});
      fed[s] = said.texts[s].size();
    }
    HostTensor logits = std::move(model.forward(inputs, cache).logits);
    for (std::size_t s = 0; s < sequences; ++s) {
      const Tensor row = logits.view()[static_cast<std::int64_t>(s)];
      const std::span<float> scores(row.as<float>(), static_cast<std::size_t>(row.elements()));
      said.texts[s].push_back(after != nullptr ? after->texts[s][fed[s]] : argmax(scores));
    }
    said.logits.push_back(std::move(logits));
  }
  return said;
}

class PendingInputsOnCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    const cuda::Summary gpu = cuda::describe();
    if (!gpu.usable) GTEST_SKIP() << gpu.problem;
  }
  static constexpr std::int64_t always = 0, never = std::int64_t{1} << 60;
};

TEST_F(PendingInputsOnCuda, GiveTheTokensOfStatesInF32ThatAreUpToDate) {
  Mamba2ForCausalLM pending = classics_on_cuda(always, "f32");
  Mamba2ForCausalLM plain = classics_on_cuda(never, "f32");
  EXPECT_EQ(say(pending, 64).texts, say(plain, 64).texts);
}

TEST_F(PendingInputsOnCuda, LeaveStatesIn16BitsAsNearToThoseInF32AsTheyWere) {
  Mamba2ForCausalLM in_f32 = classics_on_cuda(never, "f32");
  const Said want = say(in_f32, 64);
  auto distance = [&](std::int64_t least_pending_bytes, const std::string& state_dtype) {
    Mamba2ForCausalLM model = classics_on_cuda(least_pending_bytes, state_dtype);
    const Said got = say(model, 64, &want);
    double sum = 0;
    for (std::size_t i = 0; i < want.logits.size(); ++i) sum += test::relative_error(got.logits[i], want.logits[i]);
    return sum / static_cast<double>(want.logits.size());
  };
  for (const std::string state_dtype : {"bf16", "bf16-stochastic"}) {
    const double pending = distance(always, state_dtype), plain = distance(never, state_dtype);
    RecordProperty("pending_" + state_dtype, std::to_string(pending));
    EXPECT_LE(pending, plain) << state_dtype;
  }
}

}  // namespace
}  // namespace mamba2
