// Rows that several ranks share: what each does before and after it hears from the others.  Bound by memory and small
// beside the products, so a block a row and an element a thread at a time.
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/over_ranks.h"

namespace mamba2::cuda {
namespace {

constexpr int block_threads = 256;

template <class T, class R>
__device__ T* row_of(const R& rows, std::int64_t r) {
  return static_cast<T*>(rows.data) + r * rows.stride;
}

template <class T>
__global__ void __launch_bounds__(block_threads) add_rows_kernel(const AddRows op) {
  const std::int64_t r = blockIdx.x;
  const T* products = row_of<const T>(op.products, r);
  const float* add = row_of<const float>(op.add, r);
  float* out = row_of<float>(op.out, r);
  for (int i = static_cast<int>(threadIdx.x); i < op.width; i += block_threads) out[i] = add[i] + as_float(products[i]);
}

/// The first column of a group that is at or after its first channel.
__device__ int first_column(const GroupedRows& op, int group) {
  const std::int64_t column = group * op.group_size - op.first_channel;
  return static_cast<int>(column < 0 ? 0 : column > op.width ? op.width : column);
}

__global__ void __launch_bounds__(block_threads) sum_squares_kernel(const GroupedRows op) {
  __shared__ float scratch[32];
  const std::int64_t r = blockIdx.x;
  const float* x = row_of<const float>(op.x, r);
  for (int group = 0; group < op.groups; ++group) {
    const int end = first_column(op, group + 1);
    float sum = 0.0F;
    for (int i = first_column(op, group) + static_cast<int>(threadIdx.x); i < end; i += block_threads)
      sum += x[i] * x[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) op.square_sums[r * op.groups + group] = sum;
    __syncthreads();  // before scratch is written again
  }
}

__global__ void __launch_bounds__(block_threads) scale_rows_kernel(const ScaleRows op) {
  const GroupedRows& grouped = op.grouped;
  const std::int64_t r = blockIdx.x;
  const float* x = row_of<const float>(grouped.x, r);
  float* out = row_of<float>(op.out, r);
  for (int group = 0; group < grouped.groups; ++group) {
    const float sum = grouped.square_sums[r * grouped.groups + group];
    const float scale = rsqrtf(sum / static_cast<float>(grouped.group_size) + op.eps);
    const int end = first_column(grouped, group + 1);
    for (int i = first_column(grouped, group) + static_cast<int>(threadIdx.x); i < end; i += block_threads)
      out[i] = x[i] * scale * op.weight[i];
  }
}

template <class Op>
void launch(void (*kernel)(Op), const Op& op, std::int64_t rows, const char* name, cudaStream_t stream) {
  if (rows == 0) return;
  kernel<<<static_cast<unsigned>(rows), block_threads, 0, stream>>>(op);
  check_launch(name);
}

}  // namespace

void add_rows(const AddRows& op, cudaStream_t stream) {
  if (op.dtype == DType::f32) return launch(add_rows_kernel<float>, op, op.rows, "add_rows", stream);
  if (op.dtype == DType::bf16) return launch(add_rows_kernel<__nv_bfloat16>, op, op.rows, "add_rows", stream);
  fail_dtype("add_rows", op.dtype, "f32 or bf16");
}
void sum_squares(const GroupedRows& op, cudaStream_t stream) {
  launch(sum_squares_kernel, op, op.rows, "sum_squares", stream);
}
void scale_rows(const ScaleRows& op, cudaStream_t stream) {
  launch(scale_rows_kernel, op, op.grouped.rows, "scale_rows", stream);
}

}  // namespace mamba2::cuda
