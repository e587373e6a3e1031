// Linear of the cpu backend: decode (few rows; bytes of weights a second against read_bandwidth) and prefill (flop/s
// against onednn_f32).
#include <benchmark/benchmark.h>

#include <vector>

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
  const auto backend = make_cpu_backend();
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
    ->ArgNames({"dtype", "rows", "n", "k"})
    ->ArgsProduct({{0, 1, 2}, {1}, {3352}, {768}})
    ->ArgsProduct({{1}, {1, 2, 4, 8}, {8512}, {2048}})
    ->Args({1, 1, 768, 1536})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void prefill(benchmark::State& state) {
  const auto backend = make_cpu_backend();
  const DType dtype = dtype_of(state.range(0));
  const std::int64_t m = state.range(1), n = state.range(2), k = state.range(3);
  const HostTensor weight = random_tensor(dtype, Shape{n, k});
  const HostTensor x = random_tensor(DType::f32, Shape{m, k}), out(DType::f32, Shape{m, n});
  const auto prepared = backend->prepare(WeightRole::linear, weight, dtype);
  for (auto _ : state) backend->run(Linear{.x = x, .weight = prepared.get(), .bias = {}, .add = {}, .out = out});
  state.counters["flop/s"] =
      benchmark::Counter(2.0 * static_cast<double>(m * n * k), benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(name(dtype)));
}
BENCHMARK(prefill)
    ->ArgNames({"dtype", "m", "n", "k"})
    ->ArgsProduct({{0, 1}, {512}, {3352}, {768}})
    ->ArgsProduct({{0, 1}, {512}, {768}, {1536}})
    ->ArgsProduct({{1}, {16, 32, 64, 512}, {8512}, {2048}})
    ->Args({1, 512, 2048, 4096})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace mamba2::benchmarks
