// The engine over a decoder that chooses tokens itself: the texts are those of one that gives logits.

#include <gtest/gtest.h>

#include <cmath>

#include "mamba2/base/error.h"
#include "mamba2/base/random.h"
#include "mamba2/generate/penalties.h"
#include "mamba2/generate/sampler.h"
#include "mamba2/generate/warpers.h"
#include "tests/generate/engine_support.h"

namespace mamba2 {
namespace {

using test::Ids;
using test::Results;

constexpr std::int64_t tokens_known = 50;

/// Chooses by the rule where one is given; counts how often.
class ChoosingDecoder : public FormulaDecoder {
 public:
  ChoosingDecoder() : FormulaDecoder(tokens_known, 6) {}

  bool chooses_tokens() const override { return true; }
  std::span<const std::int32_t> chosen_tokens() const override { return tokens_; }

  std::span<float> feed(std::span<const DecoderInput> inputs) override {
    std::vector<DecoderInput> all(inputs.begin(), inputs.end());
    for (DecoderInput& input : all) input.wants_logits = input.wants_logits || input.next != nullptr;
    std::span<float> logits = FormulaDecoder::feed(all);
    tokens_.clear();
    given_.clear();
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!all[i].wants_logits) continue;
      const std::span<float> scores = logits.first(tokens_known);
      logits = logits.subspan(tokens_known);
      if (inputs[i].next != nullptr)
        tokens_.push_back(scores_are_nan ? score_is_nan : choose(*inputs[i].next, scores));
      else
        given_.insert(given_.end(), scores.begin(), scores.end());
    }
    chosen += tokens_.size();
    return given_;
  }

  std::size_t chosen = 0;
  bool scores_are_nan = false;

 private:
  static std::int32_t choose(const TokenRequest& request, std::span<float> scores) {
    const TokenRule& rule = request.rule;
    const History history{request.history, 0, 1 << 20};
    if (rule.repetition_penalty != 1) repetition_penalty(static_cast<double>(rule.repetition_penalty))(history, scores);
    if (rule.samples == 0) return argmax(scores);
    temperature(static_cast<double>(rule.temperature))(history, scores);
    if (rule.top_k > 0) top_k(rule.top_k)(history, scores);
    if (rule.removed_mass > 0) top_p(1 - static_cast<double>(rule.removed_mass), 1)(history, scores);
    if (rule.min_p > 0) min_p(static_cast<double>(rule.min_p), 1)(history, scores);
    const auto words = philox({static_cast<std::uint32_t>(rule.seed), static_cast<std::uint32_t>(rule.seed >> 32U)},
                              {static_cast<std::uint32_t>(request.step), 0, static_cast<std::uint32_t>(rule.stream),
                               static_cast<std::uint32_t>(rule.stream >> 32U)});
    const std::uint64_t bits = words[0] | (static_cast<std::uint64_t>(words[1]) << 32U);
    return sample(scores, static_cast<double>(bits >> 11U) * 0x1p-53);
  }

  std::vector<std::int32_t> tokens_;
  std::vector<float> given_;
};

GenerationConfig config_number(int i) {
  GenerationConfig c;
  c.max_new_tokens = 12;
  c.seed = static_cast<std::uint64_t>(i);
  c.do_sample = i % 4 != 0;
  c.num_return_sequences = *c.do_sample ? 1 + i % 3 : 1;
  if (i % 3 == 0) c.repetition_penalty = 1.5;
  if (!*c.do_sample) return c;
  if (i % 2 == 0) c.temperature = 0.7;
  c.top_k = i % 5 == 0 ? 0 : 20;
  if (i % 3 == 1) c.top_p = 0.75;  // 1 - p has no rounding
  if (i % 4 == 1) c.min_p = 0.125;
  return c;
}

/// What the engine makes of prompts with configs that differ, all under way together.
std::vector<Ids> texts_of(Decoder& decoder) {
  Results results;
  Engine engine(decoder, {.slots = 7, .step_tokens = 8, .prefill_piece = 4});
  std::vector<RequestId> requests;
  for (int i = 0; i < 24; ++i) {
    GenerationConfig config = config_number(i);
    if (i % 7 == 6) config.no_repeat_ngram_size = 2;  // what no rule says
    requests.push_back(engine.submit(results.request(Ids(static_cast<std::size_t>(1 + i % 6), i), config)));
  }
  while (engine.step()) {
  }
  std::vector<Ids> texts;
  for (std::size_t i = 0; i < requests.size(); ++i)
    for (std::int64_t s = 0; s < *config_number(static_cast<int>(i)).num_return_sequences; ++s)
      texts.push_back(results.of(requests[i], s).new_ids);
  return texts;
}

TEST(EngineOverADecoderThatChooses, WritesWhatItWritesFromLogits) {
  FormulaDecoder gives_logits(tokens_known, 6);
  ChoosingDecoder chooses;
  EXPECT_EQ(texts_of(chooses), texts_of(gives_logits));
  EXPECT_GT(chooses.chosen, 300U);
}

TEST(EngineOverADecoderThatChooses, EndsASequenceWhoseScoresAreRefused) {
  ChoosingDecoder decoder;
  Results results;
  Engine engine(decoder, {.slots = 2});
  const RequestId request = engine.submit(results.request({1}, config_number(0)));
  engine.step();
  decoder.scores_are_nan = true;
  while (engine.step()) {
  }
  EXPECT_NE(test::error_message(results.of(request).error).find("NaN"), std::string::npos);
  EXPECT_EQ(results.of(request).new_ids.size(), 1U);
}

}  // namespace
}  // namespace mamba2
