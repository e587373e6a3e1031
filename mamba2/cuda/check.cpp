#include "mamba2/cuda/check.h"

#include "mamba2/base/error.h"

namespace mamba2::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  fail("CUDA: {}: {}", what, cudaGetErrorString(status));
}

void fail_dtype(const char* op, DType dtype, const char* expected) {
  fail("{}: dtype {} is not supported on cuda, expected {}", op, name(dtype), expected);
}

}  // namespace mamba2::cuda
