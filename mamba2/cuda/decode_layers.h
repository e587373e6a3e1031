#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/cuda/batch.h"
#include "mamba2/cuda/decode_plan.h"

namespace mamba2::cuda {

/// One layer's weights and states.  All are device memory.
struct DecodeLayer {
  const void* in_proj = nullptr;             // (2 inner + 2 state_size + heads, hidden) bf16
  const void* out_proj = nullptr;            // (hidden, inner) bf16
  const float* norm_weight = nullptr;        // (hidden)
  const float* gated_norm_weight = nullptr;  // (inner)
  const float* conv_weight = nullptr;        // (conv_dim, 4)
  const float* conv_bias = nullptr;          // (conv_dim); null: none
  const float* dt_bias = nullptr;            // (heads)
  const float* A_log = nullptr;              // (heads)
  const float* D = nullptr;                  // (heads)
  float* conv_state = nullptr;               // (slots, conv_dim, 3)
  void* ssm_state = nullptr;                 // (slots, inner, state_size)
};

/// One token of up to eight sequences through all layers of a model: for each of them
///
///   zxBCdt = rms_norm(hidden) in_proj^T,  y = mixer_step(zxBCdt),  hidden += rms_norm(y) out_proj^T
///
/// with the bits that linear_streamed and mixer_step give.  All weights and states are read once.
struct DecodeLayers {
  DecodeShape shape;
  float norm_eps = 1e-5F, gated_norm_eps = 1e-5F;
  float dt_min = 0.0F, dt_max = 0.0F;
  const std::int32_t* positions = nullptr;  // (rows) of the tokens: a bf16 state is rounded by chance; null: to nearest
  unsigned first_layer = 0;                 // the number by which that chance goes
  const std::int32_t* slots = nullptr;      // (rows)
  Rows hidden;                              // (rows, hidden) f32, 16-byte aligned rows; read and replaced
  std::uint64_t* exchange = nullptr;        // DecodeExchange(shape).words, zero before the first call; a shape's own
  DecodeLayer layer[decode_most_layers];
};

/// True where the current device runs it: all blocks at once, on Hopper.
bool decode_layers_takes(const DecodeShape& shape);

void decode_layers(const DecodeLayers& op, cudaStream_t stream);

}  // namespace mamba2::cuda
