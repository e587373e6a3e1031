#include <benchmark/benchmark.h>

#include <string>

#include "mamba2/base/file.h"
#include "mamba2/tokenizer/tokenizer.h"

namespace mamba2 {
namespace {

const char* const tokenizer_paths[] = {MAMBA2_SOURCE_DIR "/tests/data/tokenizers/gpt-neox-20b.tokenizer.json",
                                       MAMBA2_SOURCE_DIR "/tests/data/tokenizers/mistral-v3.tokenizer.model",
                                       MAMBA2_SOURCE_DIR "/models/classics-5m/tokenizer.json"};

/// 120 000 characters of English prose.
std::string english() {
  return read_file(MAMBA2_SOURCE_DIR "/tests/data/text/classics-valid.txt");
}

void name_of(benchmark::State& state) {
  state.SetLabel(tokenizer_paths[state.range(0)] + sizeof(MAMBA2_SOURCE_DIR));
}

void load(benchmark::State& state) {
  name_of(state);
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::from_file(tokenizer_paths[state.range(0)]));
}

void encode(benchmark::State& state, const std::string& text) {
  name_of(state);
  const auto tokenizer = Tokenizer::from_file(tokenizer_paths[state.range(0)]);
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(text, SpecialTokens::omit));
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * text.size()));
}

void encode_english(benchmark::State& state) {
  encode(state, english());
}

void encode_one_letter(benchmark::State& state) {
  encode(state, std::string(100'000, 'e'));
}

void encode_spaces(benchmark::State& state) {
  encode(state, std::string(100'000, ' '));
}

void decode_english(benchmark::State& state) {
  name_of(state);
  const auto tokenizer = Tokenizer::from_file(tokenizer_paths[state.range(0)]);
  const std::string text = english();
  const auto ids = tokenizer->encode(text, SpecialTokens::omit);
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->decode(ids, SpecialTokens::include));
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * text.size()));
}

BENCHMARK(load)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);
BENCHMARK(encode_english)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);
BENCHMARK(encode_one_letter)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);
BENCHMARK(encode_spaces)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);
BENCHMARK(decode_english)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace mamba2
