// A plain tiled product in f32 for whatever shape comes: odd widths, unaligned rows, small matrices.
//
// Parallel: 64 x 64 outputs a block, 4 x 4 a thread; 16 inputs at a time through shared memory.
// Bound by multiplications; large aligned products go to cuBLASLt.
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/linear.h"

namespace mamba2::cuda {
namespace {

constexpr int tile = 64, depth = 16, each = 4;
constexpr int block_threads = (tile / each) * (tile / each);

template <class T>
__device__ __forceinline__ void load_tile(float (&to)[depth][tile + each], const T* from, std::int64_t stride,
                                          std::int64_t first_row, std::int64_t rows, int first, int inputs) {
  for (int i = static_cast<int>(threadIdx.x); i < tile * depth; i += block_threads) {
    const int row = i / depth, k = i % depth;
    const bool exists = first_row + row < rows && first + k < inputs;
    to[k][row] = exists ? as_float(from[(first_row + row) * stride + first + k]) : 0.0F;
  }
}

template <class T>
__global__ void __launch_bounds__(block_threads) tiled_kernel(const LinearRows op) {
  __shared__ float x[depth][tile + each], w[depth][tile + each];
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * tile;
  const int first_output = static_cast<int>(blockIdx.y) * tile;
  const int row = static_cast<int>(threadIdx.x) / (tile / each) * each;
  const int column = static_cast<int>(threadIdx.x) % (tile / each) * each;
  float sum[each][each] = {};
  for (int first = 0; first < op.inputs; first += depth) {
    load_tile(x, static_cast<const float*>(op.x.data), op.x.stride, first_row, op.rows, first, op.inputs);
    load_tile(w, static_cast<const T*>(op.weight.data), op.weight.stride, first_output, op.outputs, first, op.inputs);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < depth; ++k) {
#pragma unroll
      for (int i = 0; i < each; ++i) {
#pragma unroll
        for (int j = 0; j < each; ++j) sum[i][j] = fmaf(x[k][row + i], w[k][column + j], sum[i][j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < each; ++i) {
#pragma unroll
    for (int j = 0; j < each; ++j) {
      const std::int64_t r = first_row + row + i;
      const int output = first_output + column + j;
      if (r >= op.rows || output >= op.outputs) continue;
      float value = sum[i][j];
      if (op.bias != nullptr) value += op.bias[output];
      if (op.add.data != nullptr) value += static_cast<const float*>(op.add.data)[r * op.add.stride + output];
      static_cast<float*>(op.out.data)[r * op.out.stride + output] = value;
    }
  }
}

}  // namespace

void linear_tiled(const LinearRows& op, cudaStream_t stream) {
  if (op.rows == 0 || op.outputs == 0) return;
  const dim3 grid(static_cast<unsigned>((op.rows + tile - 1) / tile),
                  static_cast<unsigned>((op.outputs + tile - 1) / tile));
  with_element_type(op.weight_dtype, "linear", [&](auto element) {
    tiled_kernel<typename decltype(element)::type><<<grid, block_threads, 0, stream>>>(op);
  });
  check_launch("linear (tiled)");
}

}  // namespace mamba2::cuda
