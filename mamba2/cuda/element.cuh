// Elements of device tensors as floats, and dtypes as types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "mamba2/cuda/check.h"

namespace mamba2::cuda {

__device__ __forceinline__ float as_float(float value) { return value; }
__device__ __forceinline__ float as_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float as_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ __forceinline__ T rounded(float value);
template <>
__device__ __forceinline__ float rounded<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half rounded<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 rounded<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

/// Bytes of one vector access and how many elements of T it holds.
constexpr int vector_bytes = 16;
template <class T>
constexpr int vector_elements = vector_bytes / static_cast<int>(sizeof(T));

/// Sixteen bytes of elements, moved at once.
template <class T>
struct alignas(vector_bytes) Vector {
  T at[vector_elements<T>];
};

template <class T>
__device__ __forceinline__ Vector<T> load_vector(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}
template <class T>
__device__ __forceinline__ void store_vector(T* to, const Vector<T>& value) {
  *reinterpret_cast<Vector<T>*>(to) = value;
}

__device__ __forceinline__ float sigmoid(float value) { return 1.0F / (1.0F + __expf(-value)); }
__device__ __forceinline__ float silu(float value) { return value * sigmoid(value); }

/// The sum over a warp, in every lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xFFFFFFFFU, value, distance);
  return value;
}

/// The sum over a block of whole warps, in every thread.  scratch: 32 floats of shared memory, free again after the next
/// barrier.
__device__ __forceinline__ float block_sum(float value, float* scratch) {
  value = warp_sum(value);
  const int warps = static_cast<int>(blockDim.x) / 32;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return warp_sum(lane < warps ? scratch[lane] : 0.0F);
}

template <class T>
struct ElementType {
  using type = T;
};

/// Calls f(ElementType<T>{}) with the device type of a floating dtype; op names the caller in the error.
template <class F>
void with_element_type(DType dtype, const char* op, F&& f) {
  switch (dtype) {
    case DType::f32: return f(ElementType<float>{});
    case DType::f16: return f(ElementType<__half>{});
    case DType::bf16: return f(ElementType<__nv_bfloat16>{});
    default: fail_dtype(op, dtype, "f32, f16 or bf16");
  }
}

}  // namespace mamba2::cuda
