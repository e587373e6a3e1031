#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "mamba2/cuda/conv_step.h"
#include "mamba2/cuda/ssd_scan.h"

namespace mamba2::cuda {

/// A bf16 state is rounded up or down by chance, as StateRounding::stochastic of mamba2/ops/ops.h says.
struct StochasticRounding {
  const std::int32_t* positions = nullptr;  // (sequences) of the tokens; null: to nearest
  unsigned layer = 0;
};

/// One token of every sequence through the mixer between in_proj and the gated norm: convolution step, SiLU, dt, state
/// update, D and, unless the norm comes first, the gate.
///
///   xBC = silu(conv(conv_state, xBC_in)),  dt = clamp(softplus(dt_raw + dt_bias)),
///   S = exp(dt A) S + dt x B^T,  out = (S C + D x) [silu(z)],  A = -exp(A_log)
///
/// zxBCdt (sequences, [z | x | B | C | dt_raw]) is in_proj's output; sequence i has slot batch.slots[i] (null: i).
/// conv_state (slots, conv_dim, conv_kernel - 1) and ssm_state (slots, num_heads, head_dim, state_size) are read and
/// replaced.  All but the state are f32.  All pointers are device memory.
struct MixerStep {
  SsdShape shape;       // head_dim 64; state_size 64, 128 or 256
  int conv_kernel = 4;  // 2 to 4
  ConstRows zxBCdt;
  const float* conv_weight = nullptr;  // (conv_dim, conv_kernel)
  const float* conv_bias = nullptr;    // (conv_dim); null: none
  const float* dt_bias = nullptr;      // (num_heads)
  float dt_min = 0.0F, dt_max = 0.0F;  // time_step_limit
  const float* A_log = nullptr;        // (num_heads)
  const float* D = nullptr;            // (num_heads)
  bool gate = true;
  int sequences = 0;
  const std::int32_t* slots = nullptr;
  float* conv_state = nullptr;
  void* ssm_state = nullptr;
  DType state_dtype = DType::f32;  // f32 | bf16
  StochasticRounding rounding;
  bool state_is_settled = false;  // the kernel just ahead does not write ssm_state: it may be read before that is done
  Rows out;                       // (sequences, num_heads * head_dim)
  unsigned* arrivals = nullptr;   // (sequences, n_groups), zero before the first call, and again after each
  /// Work space (sequences, conv_dim) f32 for the convolution's outputs, made by a kernel of its own: faster where the
  /// states are many.  Null: each block makes its own.
  float* convolved = nullptr;
};

/// Bytes of state from which the convolution is worth a kernel of its own.
constexpr std::int64_t separate_convolution_bytes = std::int64_t{24} << 20;

/// True where this kernel takes the shape; elsewhere the parts (causal_conv, softplus_dt, ssd_scan) do the same.
bool mixer_step_is_tuned(const MixerStep& step);

/// The convolution of a step by itself, into step.convolved.
ConvStep convolution_of(const MixerStep& step);

void mixer_step(const MixerStep& step, cudaStream_t stream);

}  // namespace mamba2::cuda
