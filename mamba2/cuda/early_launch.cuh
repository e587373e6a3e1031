// Kernels that start before the one ahead of them on the stream is done (programmatic dependent launch, from compute
// capability 9.0 on).  Such a kernel may read what no recent kernel writes, then calls wait_for_previous().
#pragma once

#include "mamba2/cuda/check.h"
#include "mamba2/cuda/device.h"

namespace mamba2::cuda {

/// Waits until the kernel ahead is done and what it wrote can be read, then lets the next one start: so that what runs
/// beside this kernel's body is the start of the next one alone, and every kernel before the last one is done.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <class Argument>
void launch_early(void (*kernel)(Argument), const Argument& argument, dim3 blocks, int threads, const char* name,
                  cudaStream_t stream, std::size_t shared_bytes = 0) {
  constexpr int least_compute_capability = 90;
  cudaLaunchAttribute early_start;
  early_start.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early_start.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early_start;
  config.numAttrs = current_device().compute_capability >= least_compute_capability ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, argument), name);
}

}  // namespace mamba2::cuda
