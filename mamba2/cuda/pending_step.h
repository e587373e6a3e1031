#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "mamba2/cuda/mixer_step.h"
#include "mamba2/cuda/pending_plan.h"

namespace mamba2::cuda {

/// PendingInputs of mamba2/ops/ops.h with room for pending_room tokens.  All pointers are device memory.
struct PendingRing {
  void* input = nullptr;                // (slots, num_heads, pending_room, 64), dtype of the state
  void* B = nullptr;                    // (slots, n_groups, pending_room, state_size), likewise
  float* log_decay = nullptr;           // (slots, num_heads, pending_room)
  const std::int32_t* since = nullptr;  // (slots)
};

/// A mixer step whose state is read, and written by the eighth of the heads whose turn it is.
struct PendingStep {
  MixerStep step;  // as mixer_step is tuned for, with `convolved`; state_size 64 or 128
  PendingRing ring;
  const std::int32_t* positions = nullptr;  // (sequences)
  int layer = 0;
  int D_head_stride = 1, D_channel_stride = 0;
};

void pending_step(const PendingStep& op, cudaStream_t stream);

/// SettleState of mamba2/ops/ops.h.
struct SettleStates {
  SsdShape shape;  // head_dim 64
  int sequences = 0;
  const std::int32_t *slots = nullptr, *ends = nullptr;  // (sequences)
  PendingRing ring;
  void* ssm_state = nullptr;
  DType state_dtype = DType::f32;
  bool by_chance = false;
  int layer = 0;
};

void settle_states(const SettleStates& op, cudaStream_t stream);

}  // namespace mamba2::cuda
