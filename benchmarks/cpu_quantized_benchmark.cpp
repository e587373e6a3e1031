// Linear of the cpu backend with quantised weights: decode and small batches (bytes of weights a second, beside the
// bytes that the same threads only read in the same run) and prefill (flop/s against onednn_f32 and prefill).
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <vector>

#include "benchmarks/prefill.h"
#include "benchmarks/random_tensor.h"
#include "mamba2/cpu/cpu_backend.h"
#include "mamba2/cpu/thread_pool.h"

namespace mamba2::benchmarks {
namespace {

constexpr std::int64_t weights_bytes = 128 << 20;  // far beyond the caches
constexpr DType dtypes[] = {DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0,
                            DType::q5_1, DType::q4_k, DType::q5_k, DType::q6_k};

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Blocks of any bits: what the numbers are does not matter to the time they take.
HostTensor random_blocks(DType dtype, const Shape& shape) {
  HostTensor made(dtype, shape);
  Random random(1);
  std::uint32_t pattern[1021];
  for (std::uint32_t& word : pattern) word = random.next_u32();
  auto* const bytes = made.view().as<std::byte>();
  for (std::size_t at = 0; at < made.view().bytes(); at += sizeof pattern)
    std::memcpy(bytes + at, pattern, std::min(sizeof pattern, made.view().bytes() - at));
  return made;
}

/// Seconds that the threads of a pool need to read memory from first to last and add it up.
double seconds_to_read(cpu::ThreadPool& pool, const HostTensor& memory) {
  const auto* words = memory.view().as<std::uint64_t>();
  const double start = seconds();
  pool.parallel_for(memory.view().elements() / 8, 1 << 16, [&](std::int64_t begin, std::int64_t end, int) {
    std::uint64_t sums[16] = {};
    for (std::int64_t i = begin; i + 16 <= end; i += 16)
      for (int j = 0; j < 16; ++j) sums[j] += words[i + j];
    benchmark::DoNotOptimize(sums);
  });
  return seconds() - start;
}

/// As many matrices as fill weights_bytes, one after the other, as the layers of a model are; after each round the same
/// number of bytes is only read.
void quantized_decode(benchmark::State& state) {
  const auto backend = make_cpu_backend();
  cpu::ThreadPool pool(0);
  const DType dtype = dtypes[state.range(0)];
  const std::int64_t rows = state.range(1), n = state.range(2), k = state.range(3);
  const auto bytes = static_cast<std::int64_t>(bytes_for(dtype, n * k));
  const std::int64_t layers = weights_bytes / bytes;
  const HostTensor weight = random_blocks(dtype, Shape{n, k}), memory(DType::u8, Shape{layers * bytes});
  const HostTensor x = random_tensor(DType::f32, Shape{rows, k}), out(DType::f32, Shape{rows, n});
  std::vector<std::unique_ptr<PreparedWeight>> prepared;
  for (std::int64_t i = 0; i < layers; ++i) prepared.push_back(backend->prepare(WeightRole::linear, weight, dtype));
  double multiplying = 0, reading = 0;
  for (auto _ : state) {
    const double start = seconds();
    for (const auto& each : prepared)
      backend->run(Linear{.x = x, .weight = each.get(), .bias = {}, .add = {}, .out = out});
    const double taken = seconds() - start;
    state.SetIterationTime(taken);
    multiplying += taken;
    reading += seconds_to_read(pool, memory);
  }
  state.SetBytesProcessed(state.iterations() * layers * bytes);
  state.counters["of_read_bandwidth"] = reading / multiplying;
  state.counters["flop/s"] =
      benchmark::Counter(2.0 * static_cast<double>(layers * rows * n * k * state.iterations()) / multiplying);
  state.SetLabel(std::string(name(dtype)));
}
BENCHMARK(quantized_decode)
    ->ArgNames({"dtype", "rows", "n", "k"})
    ->ArgsProduct({benchmark::CreateDenseRange(0, 7, 1), {1}, {3352}, {768}})
    ->ArgsProduct({{0, 1, 5, 7}, {1, 2, 4, 8, 16, 64}, {8512}, {2048}})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

void quantized_prefill(benchmark::State& state) {
  const auto backend = make_cpu_backend();
  time_prefill(state, *backend, random_blocks(dtypes[state.range(0)], Shape{state.range(2), state.range(3)}),
               state.range(1));
}
BENCHMARK(quantized_prefill)
    ->ArgNames({"dtype", "m", "n", "k"})
    ->ArgsProduct({benchmark::CreateDenseRange(0, 7, 1), {512}, {3352}, {768}})
    ->ArgsProduct({{0, 5}, {512}, {8512}, {2048}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

/// Bytes of blocks that prepare lays out anew a second.
void quantized_prepare(benchmark::State& state) {
  const auto backend = make_cpu_backend();
  const DType dtype = dtypes[state.range(0)];
  const HostTensor weight = random_blocks(dtype, Shape{8512, 2048});
  for (auto _ : state) benchmark::DoNotOptimize(backend->prepare(WeightRole::linear, weight, dtype));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(weight.view().bytes()));
  state.SetLabel(std::string(name(dtype)));
}
BENCHMARK(quantized_prepare)->ArgName("dtype")->DenseRange(0, 7)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace mamba2::benchmarks
