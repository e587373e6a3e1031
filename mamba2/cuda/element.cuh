// Elements of device tensors as floats, and dtypes as types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "mamba2/cuda/check.h"

namespace mamba2::cuda {

/// What is written where an index from the device points outside its tensor: nothing else is there to tell by.
__device__ __forceinline__ float not_a_number() {
  return __int_as_float(0x7FC00000);
}

__device__ __forceinline__ float as_float(float value) {
  return value;
}
__device__ __forceinline__ float as_float(__half value) {
  return __half2float(value);
}
__device__ __forceinline__ float as_float(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

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

/// Two elements of 2 bytes as floats, the lower half first; and two floats rounded to such a pair.
__device__ __forceinline__ float2 unpacked(unsigned pair, __nv_bfloat16) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000U)};
}
__device__ __forceinline__ float2 unpacked(unsigned pair, __half) {
  __half2 halves;
  *reinterpret_cast<unsigned*>(&halves) = pair;
  return __half22float2(halves);
}
__device__ __forceinline__ unsigned packed(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}
__device__ __forceinline__ unsigned packed(float low, float high, __half) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

/// Two floats as three pairs of bf16, largest first, that sum to them.
__device__ __forceinline__ void three_parts(float low, float high, unsigned (&pairs)[3]) {
#pragma unroll
  for (int p = 0; p < 3; ++p) {
    pairs[p] = packed(low, high, __nv_bfloat16());
    const float2 taken = unpacked(pairs[p], __nv_bfloat16());
    low -= taken.x;
    high -= taken.y;
  }
}

/// Sixteen bytes of elements, moved at once, as floats.  They travel as uint4: a struct of elements would be taken
/// apart into 2-byte accesses.
template <class T>
__device__ __forceinline__ void unpack_vector(float (&to)[vector_elements<T>], const uint4& from) {
  const unsigned words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      to[i] = __uint_as_float(words[i]);
    } else {
      const float2 pair = unpacked(words[i], T());
      to[2 * i] = pair.x;
      to[2 * i + 1] = pair.y;
    }
  }
}

template <class T>
__device__ __forceinline__ uint4 pack_vector(const float (&from)[vector_elements<T>]) {
  unsigned words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      words[i] = __float_as_uint(from[i]);
    } else {
      words[i] = packed(from[2 * i], from[2 * i + 1], T());
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

__device__ __forceinline__ uint4 load_vector(const void* from) {
  return *static_cast<const uint4*>(from);
}
__device__ __forceinline__ void store_vector(void* to, const uint4& value) {
  *static_cast<uint4*>(to) = value;
}

/// Count floats rounded to T, stored at once: 8 or 16 bytes, aligned to as much.
template <class T, int Count>
__device__ __forceinline__ void store_run(T* to, const float (&from)[Count]) {
  if constexpr (Count == vector_elements<T>) {
    store_vector(to, pack_vector<T>(from));
  } else {
    static_assert(Count == 4 && sizeof(T) == 2);
    *reinterpret_cast<uint2*>(to) = {packed(from[0], from[1], T()), packed(from[2], from[3], T())};
  }
}

__device__ __forceinline__ float sigmoid(float value) {
  return __fdividef(1.0F, 1.0F + __expf(-value));
}
__device__ __forceinline__ float silu(float value) {
  return value * sigmoid(value);
}

/// The sum over a warp, in every lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xFFFFFFFFU, value, distance);
  return value;
}

/// The sum over a block of whole warps, in every thread.  scratch: 32 floats of shared memory, free again after the
/// next barrier.
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
