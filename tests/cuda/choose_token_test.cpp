// Tokens chosen on the device are those that generate's processors and samplers choose from the same logits.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "mamba2/base/random.h"
#include "mamba2/cuda/cuda_backend.h"
#include "mamba2/generate/complete_config.h"
#include "mamba2/generate/device_choice.h"
#include "mamba2/generate/logits_processor.h"

namespace mamba2 {
namespace {

struct Asked {
  GenerationConfig config;
  std::vector<std::int32_t> history;
  std::int64_t step = 0;
  std::vector<float> logits;
};

/// What the host chooses.
std::int32_t on_host(const Asked& asked, const SequenceRandom& random) {
  std::vector<float> scores = asked.logits;
  const History history{asked.history, 1, 1 << 20};
  for (const LogitsProcessor& process : make_logits_processors(asked.config, std::ssize(scores)))
    process(history, scores);
  return *asked.config.do_sample ? sample(scores, random.uniform(asked.step, 0)) : argmax(scores);
}

class ChooseTokenOnCuda : public testing::Test {
 protected:
  void SetUp() override {
    static const cuda::Summary gpu = cuda::describe();
    if (!gpu.usable) GTEST_SKIP() << gpu.problem;
    static const std::unique_ptr<Backend> made = make_cuda_backend();
    backend_ = made.get();
  }

  SequenceRandom random_of(const Asked& asked) const { return {*asked.config.seed, asked.history, 0}; }

  /// What the device chooses for each, all in one op.
  std::vector<std::int32_t> on_device(const std::vector<Asked>& rows) {
    const auto count = std::ssize(rows), vocab_size = std::ssize(rows.front().logits);
    std::size_t longest = 1;
    for (const Asked& asked : rows) longest = std::max(longest, asked.history.size());
    const HostTensor logits(DType::f32, {count, vocab_size});
    std::vector<std::int32_t> rules, steps, history;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      std::copy(rows[r].logits.begin(), rows[r].logits.end(),
                logits.span<float>().begin() + static_cast<std::ptrdiff_t>(r) * vocab_size);
      const auto processors = make_logits_processors(rows[r].config, vocab_size).size();
      const std::optional<TokenRule> rule = token_rule(rows[r].config, processors, random_of(rows[r]));
      if (!rule) throw std::logic_error("the config has no rule");
      rules.resize(rules.size() + token_rule_words);
      std::memcpy(rules.data() + rules.size() - token_rule_words, &*rule, sizeof(TokenRule));
      steps.push_back(static_cast<std::int32_t>(rows[r].step));
      history.insert(history.end(), rows[r].history.begin(), rows[r].history.end());
      history.resize((r + 1) * longest, -1);
    }
    auto integers = [&](std::vector<std::int32_t>& values, const Shape& shape) {
      DeviceTensor made = backend_->allocate(DType::i32, shape);
      backend_->upload(Tensor(values.data(), DType::i32, shape), made);
      return made;
    };
    std::vector<std::int32_t> places(5, 7), moved(5), tokens(rows.size()), later(rows.size());
    const DeviceTensor scores = backend_->upload(logits, DType::f32), out = backend_->allocate(DType::i32, {count}),
                       rule_words = integers(rules, {count, token_rule_words}), at = integers(steps, {count}),
                       before = integers(history, {count, static_cast<std::int64_t>(longest)}),
                       positions = integers(places, {5});
    backend_->run(ChooseToken{
        .logits = scores, .rules = rule_words, .steps = at, .history = before, .positions = positions, .out = out});
    backend_->start_download(out);
    backend_->start_download(at);
    backend_->finish_download(Tensor(tokens.data(), DType::i32, {count}));
    backend_->finish_download(Tensor(later.data(), DType::i32, {count}));
    for (std::size_t r = 0; r < rows.size(); ++r) EXPECT_EQ(later[r], steps[r] + 1);
    backend_->download(positions, Tensor(moved.data(), DType::i32, {5}));
    EXPECT_EQ(moved, std::vector<std::int32_t>(5, 8));
    return tokens;
  }

  Backend* backend_ = nullptr;
};

Asked random_row(std::int64_t vocab_size, Random& random) {
  Asked asked;
  auto chance = [&](double share) { return random.uniform() < share; };
  GenerationConfig& c = asked.config;
  c.seed = random.next_u64();
  c.do_sample = chance(0.8);
  if (chance(0.3)) c.repetition_penalty = chance(0.5) ? 1.3 : 0.8;
  if (*c.do_sample) {
    if (chance(0.6)) c.temperature = 0.3 + 1.5 * random.uniform();
    c.top_k = chance(0.6) ? 1 + static_cast<std::int64_t>(random.uniform() * (chance(0.3) ? 2000 : 60)) : 0;
    if (chance(0.5)) c.top_p = chance(0.1) ? 1e-6 : random.uniform();
    if (chance(0.3)) c.min_p = random.uniform();
  }
  c.eos_token_id = std::vector<std::int32_t>();
  c = complete_config(c);
  const double spread = chance(0.2) ? 0.01 : chance(0.5) ? 1.0 : 4.0;
  const bool ties = chance(0.3);
  for (std::int64_t i = 0; i < vocab_size; ++i) {
    const double value = spread * random.normal();
    asked.logits.push_back(static_cast<float>(ties ? std::round(value * 2) / 2 : value));
  }
  if (chance(0.2))
    for (std::size_t i = 0; i < asked.logits.size(); i += 3) asked.logits[i] = -std::numeric_limits<float>::infinity();
  asked.history.assign(1 + random.next_u32() % 90, 0);
  for (std::int32_t& id : asked.history)
    id = static_cast<std::int32_t>(random.next_u32() % static_cast<std::uint32_t>(vocab_size));
  asked.step = random.next_u32() % 5000;
  return asked;
}

TEST_F(ChooseTokenOnCuda, ChoosesWhatTheHostChooses) {
  Random random(1);
  for (const std::int64_t vocab_size : {2, 3, 33, 1000, 1031, 50288, 50289})
    for (int repeat = 0; repeat < (vocab_size < 2000 ? 20 : 3); ++repeat) {
      std::vector<Asked> rows;
      for (int r = 0; r < 13; ++r) rows.push_back(random_row(vocab_size, random));
      const std::vector<std::int32_t> tokens = on_device(rows);
      for (std::size_t r = 0; r < rows.size(); ++r)
        EXPECT_EQ(tokens[r], on_host(rows[r], random_of(rows[r])))
            << "vocabulary " << vocab_size << " " << rows[r].config.to_json().dump();
    }
}

TEST_F(ChooseTokenOnCuda, RefusesWhatTheHostRefuses) {
  constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  GenerationConfig greedy, sampling;
  greedy.seed = sampling.seed = 1;
  greedy.do_sample = false;
  sampling.do_sample = true;
  greedy.eos_token_id = sampling.eos_token_id = std::vector<std::int32_t>();
  greedy = complete_config(greedy);
  sampling = complete_config(sampling);
  const std::vector<float> with_nan{1, nan, infinity, 0}, infinite{1, infinity, 2, infinity}, none(4, -infinity);
  const std::vector<std::int32_t> tokens = on_device({{greedy, {0}, 0, with_nan},
                                                      {sampling, {0}, 0, with_nan},
                                                      {greedy, {0}, 0, infinite},
                                                      {sampling, {0}, 0, infinite},
                                                      {greedy, {0}, 0, none},
                                                      {sampling, {0}, 0, none}});
  const std::vector<std::int32_t> want{score_is_nan, score_is_nan, 1, score_is_infinite, 0, all_ruled_out};
  EXPECT_EQ(tokens, want);
}

}  // namespace
}  // namespace mamba2
