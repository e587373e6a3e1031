#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// One token of every sequence through the causal convolution and SiLU: out = silu(conv(conv_state, x)).
/// sequence i has slot slots[i] (null: i); conv_state (slots, channels, conv_kernel - 1), oldest first, is read and
/// replaced.  All are f32.  All pointers are device memory.
struct ConvStep {
  int sequences = 0;
  int channels = 0;
  int conv_kernel = 4;  // 2 to 4
  ConstRows x;
  const float* weight = nullptr;  // (channels, conv_kernel)
  const float* bias = nullptr;    // (channels); null: none
  const std::int32_t* slots = nullptr;
  float* conv_state = nullptr;
  float* out = nullptr;  // (sequences, channels)
};

void conv_step(const ConvStep& step, cudaStream_t stream);

}  // namespace mamba2::cuda
