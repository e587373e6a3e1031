#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "mamba2/model/modeling_mamba2.h"

namespace mamba2 {
namespace {

constexpr std::size_t prompt_tokens = 150;

std::vector<std::int32_t> prompt() {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < prompt_tokens; ++i) ids.push_back(static_cast<std::int32_t>(i * 131 % 8192));
  return ids;
}

Mamba2ForCausalLM open_model(int threads) {
  return Mamba2ForCausalLM::from_pretrained(MAMBA2_SOURCE_DIR "/models/classics-5m",
                                            {.device = "cpu", .threads = threads, .deterministic = true});
}

/// Logits of the last token, the prompt fed `split` tokens at a time, beside a neighbour of another length or alone.
std::vector<float> last_logits(Mamba2ForCausalLM& model, std::size_t split, std::size_t neighbour_tokens) {
  const std::vector<std::int32_t> ids = prompt(), other(neighbour_tokens, 7);
  Mamba2Cache cache = model.make_cache(2);
  std::vector<float> logits;
  for (std::size_t begin = 0; begin < ids.size(); begin += split) {
    const std::size_t count = std::min(split, ids.size() - begin);
    std::vector<SequenceInput> inputs{{.input_ids = std::span(ids).subspan(begin, count), .slot = 1}};
    if (!other.empty()) inputs.push_back({.input_ids = other, .slot = 0});
    const ForwardOutput output = model.forward(inputs, cache);
    const Tensor row = output.logits.view()[0];
    logits.assign(row.as<float>(), row.as<float>() + row.size(0));
  }
  return logits;
}

TEST(Deterministic, AnySplitOfAPromptGivesEqualBits) {
  Mamba2ForCausalLM model = open_model(2);
  const std::vector<float> whole = last_logits(model, prompt_tokens, 0);
  for (const std::size_t split : {1, 7, 64, 100}) EXPECT_EQ(last_logits(model, split, 0), whole) << "split " << split;
}

TEST(Deterministic, NeighboursDoNotChangeASequence) {
  Mamba2ForCausalLM model = open_model(2);
  const std::vector<float> alone = last_logits(model, 50, 0);
  for (const std::size_t neighbour : {1, 3, 40}) EXPECT_EQ(last_logits(model, 50, neighbour), alone);
}

TEST(Deterministic, TheNumberOfThreadsDoesNotCount) {
  Mamba2ForCausalLM one = open_model(1), three = open_model(3);
  EXPECT_EQ(last_logits(one, prompt_tokens, 5), last_logits(three, prompt_tokens, 5));
}

}  // namespace
}  // namespace mamba2
