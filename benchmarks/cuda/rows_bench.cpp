// The kernels of prefill that read and write rows once.
#include <fmt/core.h>

#include "benchmarks/cuda/bench.h"
#include "mamba2/cuda/causal_conv.h"
#include "mamba2/cuda/norm.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

void bench_conv(int tokens, int channels) {
  Random random(1);
  const auto count = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(channels);
  const DeviceArray x = random_elements(count, DType::bf16, random), out(count * 2);
  const DeviceArray weight(normal_values(static_cast<std::size_t>(channels) * 4, random), DType::f32);
  const DeviceArray bias(normal_values(static_cast<std::size_t>(channels), random), DType::f32);
  const DeviceArray state = random_elements(static_cast<std::size_t>(channels) * 3, DType::bf16, random);
  const DeviceArray start(std::vector<std::int32_t>{0, tokens});
  CausalConv conv;
  conv.dtype = conv.out_dtype = conv.state_dtype = DType::bf16;
  conv.channels = channels;
  conv.conv_kernel = 4;
  conv.x = {x.data(), channels};
  conv.weight = weight.floats();
  conv.bias = bias.floats();
  conv.batch = {start.ints(), nullptr, 1, tokens};
  conv.conv_state = state.data();
  conv.out = {out.data(), channels};
  report(fmt::format("causal_conv {} x {}", tokens, channels),
         median_milliseconds([&](cudaStream_t stream) { causal_conv(conv, stream); }),
         4.0 * static_cast<double>(count));
}

void bench_norms(int tokens, int width) {
  Random random(1);
  const auto count = static_cast<std::size_t>(tokens) * static_cast<std::size_t>(width);
  const DeviceArray x = random_elements(count, DType::bf16, random), z = random_elements(count, DType::bf16, random),
                    out(count * 2);
  const DeviceArray residual = random_elements(count, DType::f32, random);
  const DeviceArray weight(normal_values(static_cast<std::size_t>(width), random), DType::f32);
  GatedRmsNorm gated;
  gated.rows = tokens;
  gated.width = width;
  gated.y_dtype = gated.z_dtype = gated.out_dtype = DType::bf16;
  gated.y = {x.data(), width};
  gated.z = {z.data(), width};
  gated.weight = weight.floats();
  gated.out = {out.data(), width};
  report(fmt::format("gated_rms_norm {} x {}", tokens, width),
         median_milliseconds([&](cudaStream_t stream) { gated_rms_norm(gated, stream); }),
         6.0 * static_cast<double>(count));
  RmsNorm norm;
  norm.rows = tokens;
  norm.width = width;
  norm.dtype = DType::bf16;
  norm.x = {x.data(), width};
  norm.residual = {residual.data(), width};
  norm.weight = weight.floats();
  norm.out = {out.data(), width};
  report(fmt::format("rms_norm with f32 residual {} x {}", tokens, width),
         median_milliseconds([&](cudaStream_t stream) { rms_norm(norm, stream); }), 12.0 * static_cast<double>(count));
}

}  // namespace

void bench_rows() {
  bench_conv(16384, 5376);
  bench_conv(512, 5376);
  bench_norms(16384, 5120);
  bench_norms(16384, 2560);
  bench_norms(1, 5120);
}

}  // namespace mamba2::cuda
