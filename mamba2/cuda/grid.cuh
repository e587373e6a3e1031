#pragma once

#include "mamba2/cuda/grid.h"

namespace mamba2::cuda {

/// The row of this block in a grid_of_rows.
__device__ __forceinline__ std::int64_t grid_row() {
  return static_cast<std::int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
}

}  // namespace mamba2::cuda
