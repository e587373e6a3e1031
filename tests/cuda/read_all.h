#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace mamba2::cuda {

/// Enqueues a read of device memory, which fills the L2 cache with clean lines.
void read_all(const void* data, std::size_t bytes, cudaStream_t stream);

}  // namespace mamba2::cuda
