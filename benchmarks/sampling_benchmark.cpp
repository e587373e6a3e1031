#include <benchmark/benchmark.h>

#include <vector>

#include "mamba2/base/random.h"
#include "mamba2/generate/logits_processor.h"
#include "mamba2/generate/sampler.h"

// What choosing the next token of one sequence costs, beside a forward pass; a batch of 32 pays it 32 times.
namespace mamba2 {
namespace {

/// Logits as a model's: most tokens far below the best.
std::vector<float> logits_of(std::int64_t vocab_size) {
  Random random(1);
  std::vector<float> logits(static_cast<std::size_t>(vocab_size));
  for (float& logit : logits) logit = static_cast<float>(2.5 * random.normal());
  return logits;
}

void choose(benchmark::State& state, const GenerationConfig& asked) {
  GenerationConfig config = asked;
  config.fill_from(GenerationConfig::defaults());
  const std::vector<LogitsProcessor> processors = make_logits_processors(config, state.range(0));
  const std::vector<float> logits = logits_of(state.range(0));
  const std::vector<std::int32_t> history(1000, 7);
  std::vector<float> scores(logits.size());
  double uniform = 0;
  for (auto _ : state) {
    scores = logits;
    for (const LogitsProcessor& process : processors) process({history, 500, 2000}, scores);
    uniform = uniform < 0.9 ? uniform + 0.07 : 0;
    benchmark::DoNotOptimize(*config.do_sample ? sample(scores, uniform) : argmax(scores));
  }
}

GenerationConfig sampling() {
  GenerationConfig config;
  config.do_sample = true;
  config.temperature = 0.8;
  return config;
}

void greedy(benchmark::State& state) {
  choose(state, {});
}

void greedy_with_repetition_penalty(benchmark::State& state) {
  GenerationConfig config;
  config.repetition_penalty = 1.1;
  choose(state, config);
}

void top_k_50(benchmark::State& state) {
  choose(state, sampling());
}

void top_p_of_all(benchmark::State& state) {
  GenerationConfig config = sampling();
  config.top_k = 0;
  config.top_p = 0.9;
  choose(state, config);
}

void top_k_then_top_p(benchmark::State& state) {
  GenerationConfig config = sampling();
  config.top_p = 0.9;
  choose(state, config);
}

void min_p_of_all(benchmark::State& state) {
  GenerationConfig config = sampling();
  config.top_k = 0;
  config.min_p = 0.05;
  choose(state, config);
}

void unlimited(benchmark::State& state) {
  GenerationConfig config = sampling();
  config.top_k = 0;
  choose(state, config);
}

// The vocabularies of state-spaces' models and of Mamba-Codestral.
BENCHMARK(greedy)->Arg(50288)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(greedy_with_repetition_penalty)->Arg(50288)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(top_k_50)->Arg(50288)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(top_k_then_top_p)->Arg(50288)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(top_p_of_all)->Arg(50288)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(min_p_of_all)->Arg(50288)->Arg(32768)->Unit(benchmark::kMicrosecond);
BENCHMARK(unlimited)->Arg(50288)->Arg(32768)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace mamba2
