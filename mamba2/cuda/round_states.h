#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/cuda/ssd_scan.h"

namespace mamba2::cuda {

/// States in bf16 that are rounded by chance, and a copy in f32 that a scan works on: row i of the copy is the state of
/// the batch's sequence i.  All pointers are device memory.
struct StatesByChance {
  SsdShape shape;
  Batch batch;
  const std::int32_t* positions = nullptr;  // (tokens)
  unsigned layer = 0;
  void* states = nullptr;  // (slots, num_heads, head_dim, state_size) bf16
  float* copy = nullptr;   // (sequences, num_heads, head_dim, state_size)
};

void widen_states(const StatesByChance& op, cudaStream_t stream);
/// As StateRounding::stochastic of mamba2/ops/ops.h says, with the position of each sequence's last token; those of
/// sequences without tokens stay.
void round_states(const StatesByChance& op, cudaStream_t stream);

}  // namespace mamba2::cuda
