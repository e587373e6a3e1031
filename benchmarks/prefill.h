#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>

#include "benchmarks/random_tensor.h"
#include "mamba2/ops/backend.h"

namespace mamba2::benchmarks {

/// Times m rows of x by a weight (n, k) as it is held; flop/s against onednn.
inline void time_prefill(benchmark::State& state, Backend& backend, const Tensor& weight, std::int64_t m) {
  const std::int64_t n = weight.size(0), k = weight.size(1);
  const HostTensor x = random_tensor(DType::f32, Shape{m, k}), out(DType::f32, Shape{m, n});
  const auto prepared = backend.prepare(WeightRole::linear, weight, weight.dtype);
  for (auto _ : state) backend.run(Linear{.x = x, .weight = prepared.get(), .bias = {}, .add = {}, .out = out});
  state.counters["flop/s"] =
      benchmark::Counter(2.0 * static_cast<double>(m * n * k), benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(name(weight.dtype)));
}

}  // namespace mamba2::benchmarks
