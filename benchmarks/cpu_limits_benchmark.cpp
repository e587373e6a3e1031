// What the machine can do: bytes read a second by all threads, and the best library's matrix products.
#include <benchmark/benchmark.h>

#include <dnnl.hpp>

#include "benchmarks/random_tensor.h"
#include "mamba2/cpu/thread_pool.h"

namespace mamba2::benchmarks {
namespace {

constexpr std::int64_t read_bytes = 256 << 20;  // far beyond the caches

/// Of `streams` places at a time.
std::uint64_t sum_of(const std::uint64_t* from, std::int64_t count, std::int64_t streams) {
  const std::int64_t stream = count / streams / 16 * 16;
  std::uint64_t sums[16] = {};
  for (std::int64_t i = 0; i < stream; i += 16)
    for (std::int64_t s = i; s < streams * stream; s += stream)
      for (int j = 0; j < 16; ++j) sums[j] += from[s + j];
  std::uint64_t sum = 0;
  for (const std::uint64_t part : sums) sum += part;
  return sum;
}

/// The better of the two is the limit.
void read_bandwidth(benchmark::State& state) {
  cpu::ThreadPool pool(static_cast<int>(state.range(0)));
  const HostTensor memory(DType::u8, Shape{read_bytes});
  const auto* words = memory.view().as<std::uint64_t>();
  for (auto _ : state)
    pool.parallel_for(read_bytes / 8, 1 << 16, [&](std::int64_t begin, std::int64_t end, int) {
      benchmark::DoNotOptimize(sum_of(words + begin, end - begin, state.range(1)));
    });
  state.SetBytesProcessed(state.iterations() * read_bytes);
}
BENCHMARK(read_bandwidth)
    ->ArgNames({"threads", "streams"})
    ->ArgsProduct({{0, 1}, {1, 4}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

/// oneDNN's product with weights in the layout it likes best; dtype bf16 has x in bf16 too.
void onednn(benchmark::State& state, dnnl::memory::data_type dtype) {
  using dnnl::memory;
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const memory::desc x({m, k}, dtype, memory::format_tag::ab), w({k, n}, dtype, memory::format_tag::any);
  const memory::desc out({m, n}, memory::data_type::f32, memory::format_tag::ab);
  const dnnl::matmul::primitive_desc plan({x, w, out}, engine);
  memory xs(plan.src_desc(), engine), ws(plan.weights_desc(), engine), outs(plan.dst_desc(), engine);
  const dnnl::matmul product(plan);
  for (auto _ : state) {
    product.execute(stream, {{DNNL_ARG_SRC, xs}, {DNNL_ARG_WEIGHTS, ws}, {DNNL_ARG_DST, outs}});
    stream.wait();
  }
  state.counters["flop/s"] =
      benchmark::Counter(2.0 * static_cast<double>(m * n * k), benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(plan.impl_info_str());
}

/// in_proj and out_proj of 130m, then of 1.3b
void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"m", "n", "k"})
      ->Args({512, 3352, 768})
      ->Args({512, 768, 1536})
      ->Args({512, 8512, 2048})
      ->Args({512, 2048, 4096})
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(onednn, f32, dnnl::memory::data_type::f32)->Apply(shapes);
BENCHMARK_CAPTURE(onednn, bf16, dnnl::memory::data_type::bf16)->Apply(shapes);

}  // namespace
}  // namespace mamba2::benchmarks
