// What the machine can do: bytes read a second by all threads, and the best library's f32 matrix product.
#include <benchmark/benchmark.h>
#include <dnnl.h>

#include "benchmarks/random_tensor.h"
#include "mamba2/cpu/thread_pool.h"

namespace mamba2::benchmarks {
namespace {

constexpr std::int64_t read_bytes = 256 << 20;  // far beyond the caches

std::uint64_t sum_of(const std::uint64_t* from, std::int64_t count) {
  std::uint64_t sums[16] = {};
  for (std::int64_t i = 0; i + 16 <= count; i += 16)
    for (int j = 0; j < 16; ++j) sums[j] += from[i + j];
  std::uint64_t sum = 0;
  for (const std::uint64_t part : sums) sum += part;
  return sum;
}

void read_bandwidth(benchmark::State& state) {
  cpu::ThreadPool pool(0);
  const HostTensor memory(DType::u8, Shape{read_bytes});
  const auto* words = memory.view().as<std::uint64_t>();
  for (auto _ : state)
    pool.parallel_for(read_bytes / 8, 1 << 16, [&](std::int64_t begin, std::int64_t end, int) {
      benchmark::DoNotOptimize(sum_of(words + begin, end - begin));
    });
  state.SetBytesProcessed(state.iterations() * read_bytes);
}
BENCHMARK(read_bandwidth)->UseRealTime()->Unit(benchmark::kMillisecond);

void onednn_f32(benchmark::State& state) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const HostTensor x = random_tensor(DType::f32, Shape{m, k}), w = random_tensor(DType::f32, Shape{n, k});
  const HostTensor out(DType::f32, Shape{m, n});
  for (auto _ : state)
    dnnl_sgemm('N', 'T', m, n, k, 1.0F, x.view().as<float>(), k, w.view().as<float>(), k, 0.0F, out.view().as<float>(),
               n);
  state.counters["flop/s"] =
      benchmark::Counter(2.0 * static_cast<double>(m * n * k), benchmark::Counter::kIsIterationInvariantRate);
}
// in_proj and out_proj of 130m, then of 1.3b
BENCHMARK(onednn_f32)
    ->Args({512, 3352, 768})
    ->Args({512, 768, 1536})
    ->Args({512, 8512, 2048})
    ->Args({512, 2048, 4096})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace mamba2::benchmarks
