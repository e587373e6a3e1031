// Root mean square norms of rows: bound by memory, each input read once and each output written once.
//
// Parallel: one block a row (or a group of a row's columns); its threads take 16 bytes at a time, block-strided, or
// single elements where a row is not aligned. Kept: the row as floats in shared memory between the sum of squares and
// the scaling, so that width is no template parameter and nothing is read twice.  One thread writes and later reads the
// same places: no barrier but the sum's. Blocks have up to 512 threads, as many as share the row evenly: a row of 5120
// bf16 is 640 vectors, two each for 320.
#include <algorithm>
#include <type_traits>

#include "mamba2/cuda/check.h"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/norm.h"

namespace mamba2::cuda {
namespace {

constexpr int max_threads = 512;

/// Calls f(i, Count) for this thread's runs of elements of a row: Wide elements each.
template <int Wide, class F>
__device__ __forceinline__ void for_my_runs(int width, F&& f) {
  for (int i = static_cast<int>(threadIdx.x) * Wide; i < width; i += static_cast<int>(blockDim.x) * Wide) f(i);
}

/// Elements as floats: a whole vector, several, or one element, by Wide.
template <class T, int Wide>
__device__ __forceinline__ void read_run(float (&to)[Wide], const T* from) {
  if constexpr (Wide == 1) {
    to[0] = as_float(*from);
  } else {
    constexpr int each = vector_elements<T>;
#pragma unroll
    for (int v = 0; v < Wide / each; ++v) {
      float part[each];
      unpack_vector<T>(part, load_vector(from + v * each));
#pragma unroll
      for (int i = 0; i < each; ++i) to[v * each + i] = part[i];
    }
  }
}
template <class T, int Wide>
__device__ __forceinline__ void write_run(T* to, const float (&from)[Wide]) {
  if constexpr (Wide == 1) {
    *to = rounded<T>(from[0]);
  } else {
    constexpr int each = vector_elements<T>;
#pragma unroll
    for (int v = 0; v < Wide / each; ++v) {
      float part[each];
#pragma unroll
      for (int i = 0; i < each; ++i) part[i] = from[v * each + i];
      store_vector(to + v * each, pack_vector<T>(part));
    }
  }
}

template <class T, class R, int Wide>
__global__ void __launch_bounds__(max_threads) rms_norm_kernel(const RmsNorm norm) {
  extern __shared__ float row[];
  __shared__ float scratch[32];
  const std::int64_t r = blockIdx.x;
  const T* x = static_cast<const T*>(norm.x.data) + r * norm.x.stride;
  T* out = norm.out.data != nullptr ? static_cast<T*>(norm.out.data) + r * norm.out.stride : nullptr;
  R* residual =
      norm.residual.data != nullptr ? static_cast<R*>(norm.residual.data) + r * norm.residual.stride : nullptr;
  auto* rounded_out =
      norm.rounded.data != nullptr ? static_cast<__nv_bfloat16*>(norm.rounded.data) + r * norm.rounded.stride : nullptr;
  float squares = 0.0F;
  wait_for_previous();
  for_my_runs<Wide>(norm.width, [&](int i) {
    float value[Wide];
    read_run<T, Wide>(value, x + i);
    if (residual != nullptr) {
      float before[Wide];
      read_run<R, Wide>(before, residual + i);
#pragma unroll
      for (int e = 0; e < Wide; ++e) value[e] = as_float(rounded<R>(value[e] + before[e]));
      write_run<R, Wide>(residual + i, value);
    }
#pragma unroll
    for (int e = 0; e < Wide; ++e) {
      squares += value[e] * value[e];
      row[i + e] = value[e];
    }
  });
  const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(norm.width) + norm.eps);
  for_my_runs<Wide>(norm.width, [&](int i) {
    float value[Wide];
#pragma unroll
    for (int e = 0; e < Wide; ++e) value[e] = row[i + e] * scale * norm.weight[i + e];
    if (out != nullptr) write_run<T, Wide>(out + i, value);
    if constexpr (std::is_same_v<T, float>) {
      if (rounded_out == nullptr) return;
      if constexpr (Wide == 1) {
        rounded_out[i] = rounded<__nv_bfloat16>(value[0]);
      } else {
        store_run(rounded_out + i, value);
      }
    }
  });
}

template <class Y, class T, int Wide>
__global__ void __launch_bounds__(max_threads) gated_rms_norm_kernel(const GatedRmsNorm norm) {
  extern __shared__ float row[];
  __shared__ float scratch[32];
  const std::int64_t r = blockIdx.x;
  const int width = norm.width / norm.groups;
  const int first = static_cast<int>(blockIdx.y) * width;
  const Y* y = static_cast<const Y*>(norm.y.data) + r * norm.y.stride + first;
  const T* z = norm.z.data != nullptr ? static_cast<const T*>(norm.z.data) + r * norm.z.stride + first : nullptr;
  T* out = static_cast<T*>(norm.out.data) + r * norm.out.stride + first;
  float squares = 0.0F;
  wait_for_previous();
  for_my_runs<Wide>(width, [&](int i) {
    float value[Wide];
    read_run<Y, Wide>(value, y + i);
    if (z != nullptr && !norm.norm_before_gate) {
      float gate[Wide];
      read_run<T, Wide>(gate, z + i);
#pragma unroll
      for (int e = 0; e < Wide; ++e) value[e] *= silu(gate[e]);
    }
#pragma unroll
    for (int e = 0; e < Wide; ++e) {
      squares += value[e] * value[e];
      row[i + e] = value[e];
    }
  });
  const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(width) + norm.eps);
  for_my_runs<Wide>(width, [&](int i) {
    float value[Wide];
#pragma unroll
    for (int e = 0; e < Wide; ++e) value[e] = row[i + e] * scale * norm.weight[first + i + e];
    if (z != nullptr && norm.norm_before_gate) {
      float gate[Wide];
      read_run<T, Wide>(gate, z + i);
#pragma unroll
      for (int e = 0; e < Wide; ++e) value[e] *= silu(gate[e]);
    }
    write_run<T, Wide>(out + i, value);
  });
}

bool aligned(const void* data, std::int64_t stride, DType dtype) {
  return reinterpret_cast<std::uintptr_t>(data) % vector_bytes == 0 &&
         stride * static_cast<std::int64_t>(element_size(dtype)) % vector_bytes == 0;
}

template <class Arguments>
void launch(void (*kernel)(Arguments), const Arguments& norm, std::int64_t rows, int groups, int width, int wide,
            const char* name, cudaStream_t stream) {
  if (rows == 0) return;
  const int runs = (width + wide - 1) / wide;
  const int runs_each = (runs + max_threads - 1) / max_threads;
  const int threads = ((runs + runs_each - 1) / runs_each + 31) / 32 * 32;
  const std::size_t shared_bytes = sizeof(float) * static_cast<std::size_t>(width);
  if (shared_bytes > 47U << 10) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          name);
  }
  launch_early<Arguments>(kernel, norm, dim3(static_cast<unsigned>(rows), static_cast<unsigned>(groups)), threads, name,
                          stream, shared_bytes);
}

}  // namespace

void rms_norm(const RmsNorm& norm, cudaStream_t stream) {
  with_element_type(norm.dtype, "rms_norm", [&](auto element) {
    using T = typename decltype(element)::type;
    constexpr int wide = vector_elements<T>;
    const bool vectors = norm.width % wide == 0 && aligned(norm.x.data, norm.x.stride, norm.dtype) &&
                         aligned(norm.out.data, norm.out.stride, norm.dtype) &&
                         aligned(norm.residual.data, norm.residual.stride, norm.residual_dtype) &&
                         aligned(norm.rounded.data, norm.rounded.stride, DType::bf16);
    auto with_residual = [&](auto residual) {
      using R = typename decltype(residual)::type;
      if (vectors) return launch(rms_norm_kernel<T, R, wide>, norm, norm.rows, 1, norm.width, wide, "rms_norm", stream);
      launch(rms_norm_kernel<T, R, 1>, norm, norm.rows, 1, norm.width, 1, "rms_norm", stream);
    };
    if (norm.residual_dtype == DType::f32) return with_residual(ElementType<float>());
    with_residual(element);
  });
}

namespace {

template <class Y, class T>
void launch_gated(const GatedRmsNorm& norm, cudaStream_t stream) {
  constexpr int wide = std::max(vector_elements<Y>, vector_elements<T>);
  const int width = norm.width / norm.groups;
  const bool vectors = width % wide == 0 && aligned(norm.y.data, norm.y.stride, norm.y_dtype) &&
                       aligned(norm.z.data, norm.z.stride, norm.dtype) &&
                       aligned(norm.out.data, norm.out.stride, norm.dtype);
  if (vectors) {
    launch(gated_rms_norm_kernel<Y, T, wide>, norm, norm.rows, norm.groups, width, wide, "gated_rms_norm", stream);
  } else {
    launch(gated_rms_norm_kernel<Y, T, 1>, norm, norm.rows, norm.groups, width, 1, "gated_rms_norm", stream);
  }
}

}  // namespace

void gated_rms_norm(const GatedRmsNorm& norm, cudaStream_t stream) {
  if (norm.dtype == DType::f32 && norm.y_dtype == DType::bf16) return launch_gated<__nv_bfloat16, float>(norm, stream);
  if (norm.dtype != norm.y_dtype) fail_dtype("gated_rms_norm y", norm.y_dtype, "that of out");
  with_element_type(norm.dtype, "gated_rms_norm", [&](auto element) {
    using T = typename decltype(element)::type;
    launch_gated<T, T>(norm, stream);
  });
}

}  // namespace mamba2::cuda
