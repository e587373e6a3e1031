// The parts of a mixer at the shapes of 130m: heads of 64 by 128, one group.
#include <benchmark/benchmark.h>

#include "benchmarks/random_tensor.h"
#include "mamba2/cpu/chunk_length.h"
#include "mamba2/cpu/cpu_backend.h"
#include "mamba2/cpu/thread_pool.h"

namespace mamba2::benchmarks {
namespace {

constexpr std::int64_t heads = 24, head_dim = 64, state_size = 128, inner = heads * head_dim;
constexpr std::int64_t conv_dim = inner + 2 * state_size, conv_kernel = 4, layers = 24;

struct OneSequence {
  explicit OneSequence(std::int64_t tokens)
      : start(DType::i32, Shape{2}), slots(DType::i32, Shape{1}), positions(DType::i32, Shape{tokens}) {
    start.span<std::int32_t>()[1] = static_cast<std::int32_t>(tokens);
    batch = {.tokens = tokens,
             .sequences = 1,
             .longest = tokens,
             .sequence_start = start,
             .slots = slots,
             .positions = positions};
  }
  HostTensor start, slots, positions;
  Batch batch;
};

/// All layers of a mixer one after the other, each with a state of its own: f32, bf16, bf16 rounded stochastically.
void mixer(benchmark::State& state) {
  const DType held = state.range(1) == 0 ? DType::f32 : DType::bf16;
  const StateRounding rounding = state.range(1) == 2 ? StateRounding::stochastic : StateRounding::nearest;
  const auto backend = make_cpu_backend();
  const std::int64_t tokens = state.range(0);
  const OneSequence sequence(tokens);
  const HostTensor projected = random_tensor(DType::f32, Shape{tokens, inner + conv_dim + heads});
  const HostTensor conv_weight = random_tensor(DType::f32, Shape{conv_dim, conv_kernel});
  const HostTensor channels = random_tensor(DType::f32, Shape{conv_dim});
  const HostTensor of_heads = random_tensor(DType::f32, Shape{heads});
  const HostTensor conv_state(DType::f32, Shape{layers, 1, conv_dim, conv_kernel - 1});
  const HostTensor ssm_state(held, Shape{layers, 1, heads, head_dim, state_size});
  const HostTensor xBC(DType::f32, Shape{tokens, conv_dim}), dt(DType::f32, Shape{tokens, heads});
  const HostTensor y(DType::f32, Shape{tokens, inner}), out(DType::f32, Shape{tokens, inner});
  for (auto _ : state)
    for (std::int64_t layer = 0; layer < layers; ++layer)
      backend->run(Mixer{.projected = projected,
                         .conv_weight = conv_weight,
                         .conv_bias = channels,
                         .act = Activation::silu,
                         .dt_bias = of_heads,
                         .A_log = of_heads,
                         .D = of_heads,
                         .limit = {},
                         .n_groups = 1,
                         .norm_weight = channels.view().slice(0, 0, inner),
                         .norm_group_size = inner,
                         .batch = sequence.batch,
                         .conv_state = conv_state.view()[layer],
                         .ssm_state = ssm_state.view()[layer],
                         .rounding = rounding,
                         .layer = layer,
                         .xBC = xBC,
                         .dt = dt,
                         .y = y,
                         .out = out});
  state.counters["token/s"] =
      benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsIterationInvariantRate);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(2 * ssm_state.view().bytes()));
}
BENCHMARK(mixer)
    ->ArgNames({"tokens", "state"})
    ->ArgsProduct({{1, 16, 512}, {0, 1, 2}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

/// A loop of the pool with nothing in it, four pieces a thread: what a decoded token pays three times a layer.
void parallel_for(benchmark::State& state) {
  cpu::ThreadPool pool(static_cast<int>(state.range(0)));
  for (auto _ : state)
    pool.parallel_for(4 * pool.threads(), 1,
                      [](std::int64_t begin, std::int64_t, int) { benchmark::DoNotOptimize(begin); });
}
BENCHMARK(parallel_for)->ArgName("threads")->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Arg(16)->UseRealTime();

/// One layer; flop/s counts the products of the chunked form.
void ssd_scan(benchmark::State& state) {
  const auto backend = make_cpu_backend();
  const std::int64_t tokens = state.range(0);
  const OneSequence sequence(tokens);
  const HostTensor x = random_tensor(DType::f32, Shape{tokens, heads, head_dim});
  const HostTensor B = random_tensor(DType::f32, Shape{tokens, 1, state_size});
  const HostTensor dt(DType::f32, Shape{tokens, heads}), of_heads = random_tensor(DType::f32, Shape{heads});
  for (float& value : dt.span<float>()) value = 0.01F;
  const HostTensor ssm_state(DType::f32, Shape{1, heads, head_dim, state_size}), out(DType::f32, x.view().shape);
  for (auto _ : state)
    backend->run(SsdScan{.x = x,
                         .dt = dt,
                         .A_log = of_heads,
                         .B = B,
                         .C = B,
                         .D = of_heads,
                         .batch = sequence.batch,
                         .ssm_state = ssm_state,
                         .out = out});
  constexpr auto chunk = static_cast<double>(cpu::chunk_length(head_dim, state_size, 256 * 1024));
  const double flop = static_cast<double>(tokens * heads) * (4.0 * head_dim * state_size + chunk * head_dim);
  state.counters["flop/s"] = benchmark::Counter(flop, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(ssd_scan)->Arg(1)->Arg(8)->Arg(64)->Arg(512)->Arg(4096)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace mamba2::benchmarks
