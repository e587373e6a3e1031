#pragma once

#include <cstddef>

namespace mamba2::cuda {

/// What kernels' tile choices ask of a device.
struct DeviceProperties {
  int compute_capability = 0;  // 10 * major + minor
  int multiprocessors = 0;
  std::size_t l2_bytes = 0;
  int shared_bytes = 0;  // that one block may have
};

/// Of the calling thread's current device; read once a device.  Throws Error where there is none.
const DeviceProperties& current_device();

}  // namespace mamba2::cuda
