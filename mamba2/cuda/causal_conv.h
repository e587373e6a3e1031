#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/cuda/activation.h"
#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// Depthwise causal convolution over ragged sequences, with what came before each sequence as left context.
///
///   out[t, c] = act(bias[c] + sum over k of weight[c, k] * x[t - (conv_kernel - 1) + k, c])
///
/// Where t - ... lies before the sequence's first token, conv_state holds it: (slots, channels, conv_kernel - 1),
/// oldest first.  Afterwards it holds the sequence's last conv_kernel - 1 inputs; a sequence without tokens leaves it
/// alone. All pointers are device memory.
struct CausalConv {
  DType dtype = DType::f32;      // of x: f32 | f16 | bf16
  DType out_dtype = DType::f32;  // dtype, or f16 | bf16 where x and the state are f32
  int channels = 0;
  int conv_kernel = 0;  // 1 and up
  Activation activation = Activation::silu;
  ConstRows x;                    // (tokens, channels)
  const float* weight = nullptr;  // (channels, conv_kernel)
  const float* bias = nullptr;    // (channels); null: none
  Batch batch;
  void* conv_state = nullptr;
  DType state_dtype = DType::f32;
  Rows out;  // (tokens, channels); must not overlap x
};

/// Enqueues the convolution, then the replacement of the states.
void causal_conv(const CausalConv& conv, cudaStream_t stream);

}  // namespace mamba2::cuda
