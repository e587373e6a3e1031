// Linear of the cpu backend: decode (few rows; bytes of weights a second against read_bandwidth) and prefill (flop/s
// against onednn).  threads 0 is all of them, 1 shows a kernel by itself.
#include <benchmark/benchmark.h>

#include <vector>

#include "benchmarks/prefill.h"
#include "benchmarks/random_tensor.h"
#include "mamba2/cpu/cpu_backend.h"

namespace mamba2::benchmarks {
namespace {

constexpr std::int64_t weights_bytes = 256 << 20;  // far beyond the caches

DType dtype_of(std::int64_t index) {
  return index == 0 ? DType::f32 : index == 1 ? DType::bf16 : DType::f16;
}

/// As many matrices as fill weights_bytes, one after the other, as the layers of a model are.
void decode(benchmark::State& state) {
  const auto backend = make_cpu_backend(static_cast<int>(state.range(4)));
  const DType dtype = dtype_of(state.range(0));
  const std::int64_t rows = state.range(1), n = state.range(2), k = state.range(3);
  const std::int64_t bytes = n * k * static_cast<std::int64_t>(element_size(dtype)), layers = weights_bytes / bytes;
  const HostTensor weights = random_tensor(dtype, Shape{layers, n, k});
  const HostTensor x = random_tensor(DType::f32, Shape{rows, k}), out(DType::f32, Shape{rows, n});
  std::vector<std::unique_ptr<PreparedWeight>> prepared;
  for (std::int64_t i = 0; i < layers; ++i)
    prepared.push_back(backend->prepare(WeightRole::linear, weights.view()[i], dtype));
  for (auto _ : state)
    for (const auto& weight : prepared)
      backend->run(Linear{.x = x, .weight = weight.get(), .bias = {}, .add = {}, .out = out});
  state.SetBytesProcessed(state.iterations() * layers * bytes);
  state.SetLabel(std::string(name(dtype)));
}
BENCHMARK(decode)
    ->ArgNames({"dtype", "rows", "n", "k", "threads"})
    ->ArgsProduct({{0, 1, 2}, {1}, {3352}, {768}, {0, 1}})
    ->ArgsProduct({{1}, {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}, {3352}, {768}, {0}})
    // out_proj and head of 130m; in_proj and out_proj of 370m and 1.3b
    ->Args({1, 1, 768, 1536, 0})
    ->Args({1, 1, 50288, 768, 0})
    ->Args({1, 1, 4384, 1024, 0})
    ->Args({1, 1, 1024, 2048, 0})
    ->Args({1, 1, 8512, 2048, 0})
    ->Args({1, 1, 2048, 4096, 0})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void prefill(benchmark::State& state) {
  const auto backend = make_cpu_backend(static_cast<int>(state.range(4)));
  time_prefill(state, *backend, random_tensor(dtype_of(state.range(0)), Shape{state.range(2), state.range(3)}),
               state.range(1));
}
BENCHMARK(prefill)
    ->ArgNames({"dtype", "m", "n", "k", "threads"})
    ->ArgsProduct({{0, 1}, {512}, {3352}, {768}, {0, 1}})
    ->ArgsProduct({{0, 1}, {512}, {768}, {1536}, {0, 1}})
    ->ArgsProduct({{0, 1}, {512}, {8512}, {2048}, {0}})
    ->ArgsProduct({{0, 1}, {512}, {2048}, {4096}, {0}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace mamba2::benchmarks
