#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "mamba2/cuda/ssd_scan.h"

namespace mamba2::cuda {

/// How a bf16 state is rounded: to nearest, or up or down by chance so that it is right on average.  Philox4x32-10 with
/// key `seed` and counter (place in the state / 8, layer and step as given); both words lie on the device.
struct StochasticRounding {
  const std::uint64_t* seed = nullptr;  // null: to nearest
  const std::uint64_t* step = nullptr;
};

/// One token of every sequence through the mixer between in_proj and the gated norm: convolution step, SiLU, dt, state
/// update, D and, unless the norm comes first, the gate.
///
///   xBC = silu(conv(conv_state, xBC_in)),  dt = clamp(softplus(dt_raw + dt_bias)),
///   S = exp(dt A) S + dt x B^T,  out = (S C + D x) [silu(z)],  A = -exp(A_log)
///
/// zxBCdt (sequences, [z | x | B | C | dt_raw]) is in_proj's output; sequence i has slot batch.slots[i] (null: i).
/// conv_state (slots, conv_dim, conv_kernel - 1) and ssm_state (slots, num_heads, head_dim, state_size) are read and
/// replaced.  All pointers are device memory.
struct MixerStep {
  SsdShape shape;             // head_dim 64; state_size 64, 128 or 256
  int conv_kernel = 4;        // 2 to 4
  DType dtype = DType::bf16;  // of zxBCdt, conv_state and out: f32 | f16 | bf16
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
  void* conv_state = nullptr;
  void* ssm_state = nullptr;
  DType state_dtype = DType::f32;  // f32 | bf16
  StochasticRounding rounding;
  bool state_is_settled = false;  // the kernel just ahead does not write ssm_state: it may be read before that is done
  Rows out;                       // (sequences, num_heads * head_dim)
  unsigned* arrivals = nullptr;   // (sequences), zero before the first call and again after each
};

/// True where this kernel takes the shape; elsewhere the parts (causal_conv, softplus_dt, ssd_scan) do the same.
bool mixer_step_is_tuned(const MixerStep& step);

void mixer_step(const MixerStep& step, cudaStream_t stream);

}  // namespace mamba2::cuda
