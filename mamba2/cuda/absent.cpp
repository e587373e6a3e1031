// Stands in for the CUDA backend in builds without it.
#include "mamba2/base/error.h"
#include "mamba2/cuda/cuda_backend.h"

namespace mamba2 {

cuda::Summary cuda::describe() {
  Summary summary;
  summary.problem = "this build has no CUDA backend";
  return summary;
}

std::unique_ptr<Backend> make_cuda_backend(cuda::Precision, std::int64_t) {
  fail("device is 'cuda', but this build has no CUDA backend");
}

std::vector<std::unique_ptr<Backend>> make_cuda_backends(cuda::Precision precision, int) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(make_cuda_backend(precision));
  return backends;
}

}  // namespace mamba2
