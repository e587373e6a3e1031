// The engine over a decoder that chooses tokens itself: the texts are those of one that gives logits.

#include <gtest/gtest.h>

#include "tests/generate/choosing_decoder.h"
#include "tests/generate/engine_support.h"

namespace mamba2 {
namespace {

using test::Ids;
using test::Results;

constexpr std::int64_t tokens_known = 50;

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
  ChoosingDecoder chooses(tokens_known, 6);
  EXPECT_EQ(texts_of(chooses), texts_of(gives_logits));
  EXPECT_GT(chooses.chosen, 300U);
}

TEST(EngineOverADecoderThatChooses, EndsASequenceWhoseScoresAreRefused) {
  ChoosingDecoder decoder(tokens_known, 6);
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
