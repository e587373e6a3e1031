#include <benchmark/benchmark.h>

#include "mamba2/tensor/tensor.h"

namespace mamba2 {
namespace {

/// Bytes read and written by convert() from one dtype to another, a megabyte of elements at a time.
void convert_dtype(benchmark::State& state, DType from, DType to) {
  const Shape shape{1024, 1024};
  const HostTensor input(from, shape);
  const HostTensor output(to, shape);
  for (auto _ : state) {
    convert(input, output);
    benchmark::ClobberMemory();
  }
  const std::size_t bytes = input.view().bytes() + output.view().bytes();
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes) * state.iterations());
}

BENCHMARK_CAPTURE(convert_dtype, bf16_to_f32, DType::bf16, DType::f32);
BENCHMARK_CAPTURE(convert_dtype, f32_to_bf16, DType::f32, DType::bf16);
BENCHMARK_CAPTURE(convert_dtype, f16_to_f32, DType::f16, DType::f32);

}  // namespace
}  // namespace mamba2
