// Rows that have nothing to do with each other, in f32: bound by memory and small beside the products, so a block a row
// and an element a thread at a time.
#include "mamba2/cuda/activation.cuh"
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/rows.h"

namespace mamba2::cuda {
namespace {

constexpr int block_threads = 256;

/// What f16 products keep of its range of 65504.
constexpr float largest_half = 16384.0F;

template <class Body>
__device__ __forceinline__ void for_columns(int width, Body&& body) {
  for (int i = static_cast<int>(threadIdx.x); i < width; i += block_threads) body(i);
}

__device__ const float* row_of(const ConstRows& rows, std::int64_t r) {
  return static_cast<const float*>(rows.data) + r * rows.stride;
}
__device__ float* row_of(const Rows& rows, std::int64_t r) {
  return static_cast<float*>(rows.data) + r * rows.stride;
}

template <class V>
__global__ void __launch_bounds__(block_threads) activate_kernel(const Activate op) {
  const std::int64_t r = blockIdx.x;
  const float* gate = row_of(op.gate, r);
  const V* value = op.value.data != nullptr ? static_cast<const V*>(op.value.data) + r * op.value.stride : nullptr;
  float* out = row_of(op.out, r);
  for_columns(op.width, [&](int i) {
    const float activation = activated(gate[i], op.activation);
    out[i] = value != nullptr ? as_float(value[i]) * activation : activation;
  });
}

__global__ void __launch_bounds__(block_threads) gather_rows_kernel(const GatherRows op) {
  const std::int64_t i = blockIdx.x, from = op.rows[i];
  const bool exists = 0 <= from && from < op.source_rows;
  const float* x = row_of(op.x, exists ? from : 0);
  float* out = row_of(op.out, i);
  for_columns(op.width, [&](int c) { out[c] = exists ? x[c] : not_a_number(); });
}

__device__ float block_max(float value, float* scratch) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFU, value, distance));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  float most = scratch[0];
  for (int w = 1; w < block_threads / 32; ++w) most = fmaxf(most, scratch[w]);
  return most;
}

__global__ void __launch_bounds__(block_threads) cross_entropy_kernel(const CrossEntropy op) {
  __shared__ float maxima[block_threads / 32], scratch[32];
  constexpr std::int32_t ignored = -100;
  const std::int64_t r = blockIdx.x;
  const float* logits = row_of(op.logits, r);
  float most = -INFINITY;
  for_columns(op.classes, [&](int i) { most = fmaxf(most, logits[i]); });
  most = block_max(most, maxima);
  float sum = 0.0F;
  for_columns(op.classes, [&](int i) { sum += expf(logits[i] - most); });
  sum = block_sum(sum, scratch);
  if (threadIdx.x != 0) return;
  const std::int32_t label = op.labels[r];
  const bool exists = 0 <= label && label < op.classes;
  const float loss = exists ? logf(sum) + most - logits[label] : not_a_number();
  op.out[r * op.out_stride] = label == ignored ? 0.0F : loss;
}

template <class T>
__global__ void __launch_bounds__(block_threads) round_rows_kernel(const RoundRows op) {
  __shared__ float maxima[block_threads / 32];
  const std::int64_t r = blockIdx.x;
  const float* x = row_of(op.x, r);
  T* out = static_cast<T*>(op.out.data) + r * op.out.stride;
  float factor = 1.0F;
  if (op.row_scale != nullptr) {
    float most = 0.0F;
    for_columns(op.width, [&](int i) { most = fmaxf(most, fabsf(x[i])); });
    most = block_max(most, maxima);
    int exponent = 0;
    if (most > largest_half && most < INFINITY) (void)frexpf(most / largest_half, &exponent);
    factor = ldexpf(1.0F, -exponent);
    if (threadIdx.x == 0) op.row_scale[r] = ldexpf(1.0F, exponent);
  }
  for_columns(op.width, [&](int i) { out[i] = rounded<T>(x[i] * factor); });
}

__global__ void __launch_bounds__(block_threads) finish_rows_kernel(const FinishRows op) {
  const std::int64_t r = blockIdx.x;
  const float* products = row_of(op.products, r);
  const float* add = op.add.data != nullptr ? row_of(op.add, r) : nullptr;
  float* out = row_of(op.out, r);
  const float scale = op.row_scale[r];
  for_columns(op.width, [&](int i) {
    float value = products[i] * scale;
    if (op.bias != nullptr) value += op.bias[i];
    if (add != nullptr) value += add[i];
    out[i] = value;
  });
}

template <class Op>
void launch(void (*kernel)(Op), const Op& op, std::int64_t rows, const char* name, cudaStream_t stream) {
  if (rows == 0) return;
  kernel<<<static_cast<unsigned>(rows), block_threads, 0, stream>>>(op);
  check_launch(name);
}

}  // namespace

void activate(const Activate& op, cudaStream_t stream) {
  if (op.value_dtype == DType::f32) return launch(activate_kernel<float>, op, op.rows, "activate", stream);
  if (op.value_dtype == DType::bf16) return launch(activate_kernel<__nv_bfloat16>, op, op.rows, "activate", stream);
  fail_dtype("activate", op.value_dtype, "f32 or bf16");
}
void gather_rows(const GatherRows& op, cudaStream_t stream) {
  launch(gather_rows_kernel, op, op.count, "gather_rows", stream);
}
void cross_entropy(const CrossEntropy& op, cudaStream_t stream) {
  launch(cross_entropy_kernel, op, op.rows, "cross_entropy", stream);
}
void round_rows(const RoundRows& op, cudaStream_t stream) {
  if (op.out_dtype == DType::bf16) return launch(round_rows_kernel<__nv_bfloat16>, op, op.rows, "round_rows", stream);
  if (op.out_dtype == DType::f16) return launch(round_rows_kernel<__half>, op, op.rows, "round_rows", stream);
  fail_dtype("round_rows", op.out_dtype, "f16 or bf16");
}
void finish_rows(const FinishRows& op, cudaStream_t stream) {
  launch(finish_rows_kernel, op, op.rows, "finish_rows", stream);
}

}  // namespace mamba2::cuda
