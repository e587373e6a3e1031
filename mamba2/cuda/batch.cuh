#pragma once

#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// The sequence that holds a token: the last one that starts at or before it and is not empty.
__device__ __forceinline__ int sequence_of(const Batch& batch, std::int64_t token) {
  int low = 0, high = batch.sequences - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (batch.sequence_start[middle] <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

__device__ __forceinline__ std::int64_t slot_of(const Batch& batch, int sequence) {
  return batch.slots != nullptr ? batch.slots[sequence] : sequence;
}

}  // namespace mamba2::cuda
