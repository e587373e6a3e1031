// One channel of the convolution's step, as every kernel that takes it computes it.
#pragma once

#include "mamba2/cuda/element.cuh"

namespace mamba2::cuda {

/// The output from the inputs, oldest first, the new one last.
template <int Kernel>
__device__ __forceinline__ float conv_output(const float (&taps)[Kernel], const float* weight, float bias) {
  float sum = bias;
#pragma unroll
  for (int k = 0; k < Kernel; ++k) sum += weight[k] * taps[k];
  return silu(sum);
}

/// A channel's inputs from its state and the new one.
template <int Kernel>
__device__ __forceinline__ void read_taps(float (&taps)[Kernel], const float* state, float input) {
#pragma unroll
  for (int k = 0; k + 1 < Kernel; ++k) taps[k] = state[k];
  taps[Kernel - 1] = input;
}

/// The state after it.
template <int Kernel>
__device__ __forceinline__ void write_taps(float* state, const float (&taps)[Kernel]) {
#pragma unroll
  for (int k = 0; k + 1 < Kernel; ++k) state[k] = taps[k + 1];
}

}  // namespace mamba2::cuda
