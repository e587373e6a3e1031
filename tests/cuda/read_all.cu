#include "mamba2/cuda/check.h"
#include "tests/cuda/read_all.h"

namespace mamba2::cuda {
namespace {

__global__ void read_kernel(const uint4* data, std::size_t count, unsigned* never) {
  unsigned seen = 0;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<std::size_t>(gridDim.x) * blockDim.x) {
    const uint4 value = data[i];
    seen |= value.x ^ value.y ^ value.z ^ value.w;
  }
  if (seen == 0x5EED5EEDU) *never = seen;  // keeps the loads; the data is all ones
}

}  // namespace

void read_all(const void* data, std::size_t bytes, cudaStream_t stream) {
  read_kernel<<<1024, 256, 0, stream>>>(static_cast<const uint4*>(data), bytes / sizeof(uint4),
                                        static_cast<unsigned*>(const_cast<void*>(data)));
  check_launch("read an array");
}

}  // namespace mamba2::cuda
