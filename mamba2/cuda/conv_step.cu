// The convolution's step by itself, for batches where the state's update is bound by memory: a thread four neighbouring
// channels where rows are aligned, whose states of three inputs each are three 16-byte accesses, else one.
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/conv_step.cuh"
#include "mamba2/cuda/conv_step.h"
#include "mamba2/cuda/early_launch.cuh"

namespace mamba2::cuda {
namespace {

constexpr int block_threads = 256;

template <int Count>
__device__ __forceinline__ void load_floats(float (&to)[Count], const float* from) {
#pragma unroll
  for (int i = 0; i < Count / 4; ++i) {
    const float4 four = reinterpret_cast<const float4*>(from)[i];
    to[4 * i] = four.x;
    to[4 * i + 1] = four.y;
    to[4 * i + 2] = four.z;
    to[4 * i + 3] = four.w;
  }
}

/// Four channels of f32 with four taps.
__global__ void __launch_bounds__(block_threads) four_channels_kernel(const ConvStep step) {
  constexpr int kernel = 4, together = 4, kept = kernel - 1;
  const int first = (static_cast<int>(blockIdx.x) * block_threads + static_cast<int>(threadIdx.x)) * together;
  const int sequence = static_cast<int>(blockIdx.y);
  if (first >= step.channels) return;
  float weight[together * kernel], bias[together] = {};
  load_floats(weight, step.weight + first * kernel);
  if (step.bias != nullptr) load_floats(bias, step.bias + first);
  wait_for_previous();
  const std::int64_t slot = step.slots != nullptr ? step.slots[sequence] : sequence;
  float* state = step.conv_state + (slot * step.channels + first) * kept;
  float before[together * kept], input[together], after[together * kept], out[together];
  load_floats(before, state);
  load_floats(input, static_cast<const float*>(step.x.data) + sequence * step.x.stride + first);
#pragma unroll
  for (int c = 0; c < together; ++c) {
    float taps[kernel];
    read_taps(taps, before + c * kept, input[c]);
    out[c] = conv_output(taps, weight + c * kernel, bias[c]);
    write_taps(after + c * kept, taps);
  }
#pragma unroll
  for (int i = 0; i < kept; ++i)
    reinterpret_cast<float4*>(state)[i] = {after[4 * i], after[4 * i + 1], after[4 * i + 2], after[4 * i + 3]};
  *reinterpret_cast<float4*>(step.out + static_cast<std::int64_t>(sequence) * step.channels + first) = {out[0], out[1],
                                                                                                        out[2], out[3]};
}

template <int Kernel>
__global__ void __launch_bounds__(block_threads) channel_kernel(const ConvStep step) {
  const int channel = static_cast<int>(blockIdx.x) * block_threads + static_cast<int>(threadIdx.x);
  const int sequence = static_cast<int>(blockIdx.y);
  wait_for_previous();
  if (channel >= step.channels) return;
  const std::int64_t slot = step.slots != nullptr ? step.slots[sequence] : sequence;
  float* state = step.conv_state + (slot * step.channels + channel) * (Kernel - 1);
  float taps[Kernel];
  read_taps(taps, state, static_cast<const float*>(step.x.data)[sequence * step.x.stride + channel]);
  const float bias = step.bias != nullptr ? step.bias[channel] : 0.0F;
  step.out[static_cast<std::int64_t>(sequence) * step.channels + channel] =
      conv_output(taps, step.weight + channel * Kernel, bias);
  write_taps(state, taps);
}

bool aligned(const void* data) {
  return reinterpret_cast<std::uintptr_t>(data) % vector_bytes == 0;
}

}  // namespace

void conv_step(const ConvStep& step, cudaStream_t stream) {
  if (step.sequences == 0) return;
  auto run = [&](void (*kernel)(ConvStep), int channels_a_thread) {
    const int block_channels = block_threads * channels_a_thread;
    const dim3 grid(static_cast<unsigned>((step.channels + block_channels - 1) / block_channels),
                    static_cast<unsigned>(step.sequences));
    launch_early<ConvStep>(kernel, step, grid, block_threads, "conv_step", stream);
  };
  if (step.conv_kernel == 4 && step.channels % 4 == 0 && step.x.stride % 4 == 0 && aligned(step.x.data) &&
      aligned(step.weight) && aligned(step.bias) && aligned(step.conv_state) && aligned(step.out))
    return run(four_channels_kernel, 4);
  if (step.conv_kernel == 2) return run(channel_kernel<2>, 1);
  if (step.conv_kernel == 3) return run(channel_kernel<3>, 1);
  run(channel_kernel<4>, 1);
}

}  // namespace mamba2::cuda
