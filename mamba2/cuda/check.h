#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/tensor/dtype.h"

namespace mamba2::cuda {

/// Throws Error that names what was tried unless the CUDA call succeeded.  A sticky error (a kernel fault) keeps the
/// device unusable; every other one is cleared, so that the process can go on.
void check(cudaError_t status, const char* what);

/// The launch just made was accepted.
inline void check_launch(const char* kernel) {
  check(cudaGetLastError(), kernel);
}

/// Throws Error that names op and dtype.
[[noreturn]] void fail_dtype(const char* op, DType dtype, const char* expected);

}  // namespace mamba2::cuda
