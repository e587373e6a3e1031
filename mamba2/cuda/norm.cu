// Root mean square norms of rows: bound by memory, each input read once and each output written once.
//
// Parallel: one block a row (or a group of a row's columns); its threads take 16 bytes at a time, block-strided, or
// single elements where a row is not aligned.  Blocks have up to 512 threads, as many as share the row evenly: a row of
// 5120 bf16 is 640 vectors, two each for 320.
//
// Rows of up to 8192 aligned elements, which is what models have, stay in registers between the sum of squares and the
// scaling; a block goes through several rows and loads the next one while it works on one, weights stay.  Others wait
// in shared memory as floats, so that width is no template parameter.  One thread writes and later reads the same
// places: no barrier but the sum's.
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

template <class Y, class Z, class Out, int Wide>
__global__ void __launch_bounds__(max_threads) gated_rms_norm_kernel(const GatedRmsNorm norm) {
  extern __shared__ float row[];
  __shared__ float scratch[32];
  const std::int64_t r = blockIdx.x;
  const int width = norm.width / norm.groups;
  const int first = static_cast<int>(blockIdx.y) * width;
  const Y* y = static_cast<const Y*>(norm.y.data) + r * norm.y.stride + first;
  const Z* z = norm.z.data != nullptr ? static_cast<const Z*>(norm.z.data) + r * norm.z.stride + first : nullptr;
  Out* out = static_cast<Out*>(norm.out.data) + r * norm.out.stride + first;
  float squares = 0.0F;
  wait_for_previous();
  for_my_runs<Wide>(width, [&](int i) {
    float value[Wide];
    read_run<Y, Wide>(value, y + i);
    if (z != nullptr && !norm.norm_before_gate) {
      float gate[Wide];
      read_run<Z, Wide>(gate, z + i);
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
      read_run<Z, Wide>(gate, z + i);
#pragma unroll
      for (int e = 0; e < Wide; ++e) value[e] *= silu(gate[e]);
    }
    write_run<Out, Wide>(out + i, value);
  });
}

// ---- rows in registers ----

/// A thread's runs of a row as they are in memory.
template <class T, int Wide, int Runs>
struct LoadedRuns {
  static constexpr int each = vector_elements<T>;
  uint4 vector[Runs][Wide / each];

  __device__ __forceinline__ void load(const T* row, int width) {
#pragma unroll
    for (int run = 0; run < Runs; ++run) {
      const int first = first_of(run);
#pragma unroll
      for (int v = 0; v < Wide / each; ++v)
        vector[run][v] = first < width ? load_vector(row + first + v * each) : uint4{};
    }
  }
  __device__ __forceinline__ void unpack(float (&to)[Wide], int run) const {
#pragma unroll
    for (int v = 0; v < Wide / each; ++v) {
      float part[each];
      unpack_vector<T>(part, vector[run][v]);
#pragma unroll
      for (int i = 0; i < each; ++i) to[v * each + i] = part[i];
    }
  }
  __device__ static int first_of(int run) {
    return (static_cast<int>(threadIdx.x) + run * static_cast<int>(blockDim.x)) * Wide;
  }
};

/// Calls next(row, values) to have each row's values and the next row on its way, write(row, values) once they are
/// divided by their root mean square and multiplied with the weight.
template <int Wide, int Runs, class Next, class Write>
__device__ __forceinline__ void norm_rows(std::int64_t rows, int width, float eps,
                                          const LoadedRuns<float, Wide, Runs>& weight, Next&& next, Write&& write) {
  __shared__ float scratch[2][32];  // in turns, so that one barrier a row is enough
  int turn = 0;
  for (std::int64_t r = blockIdx.x; r < rows; r += gridDim.x, turn ^= 1) {
    float value[Runs][Wide], squares = 0.0F;
    next(r, value);
#pragma unroll
    for (int run = 0; run < Runs; ++run) {
#pragma unroll
      for (int e = 0; e < Wide; ++e) squares += value[run][e] * value[run][e];
    }
    const float scale = rsqrtf(block_sum(squares, scratch[turn]) / static_cast<float>(width) + eps);
#pragma unroll
    for (int run = 0; run < Runs; ++run) {
      float factor[Wide];
      weight.unpack(factor, run);
#pragma unroll
      for (int e = 0; e < Wide; ++e) value[run][e] = value[run][e] * scale * factor[e];
    }
    write(r, value);
  }
}

template <int Runs>
__global__ void __launch_bounds__(max_threads) rms_norm_rows_kernel(const RmsNorm norm) {
  constexpr int wide = vector_elements<float>;
  LoadedRuns<float, wide, Runs> weight, ahead;
  weight.load(norm.weight, norm.width);
  wait_for_previous();
  auto load = [&](std::int64_t r) {
    ahead.load(static_cast<const float*>(norm.x.data) + r * norm.x.stride, norm.width);
  };
  load(blockIdx.x);
  auto next = [&](std::int64_t r, float(&value)[Runs][wide]) {
#pragma unroll
    for (int run = 0; run < Runs; ++run) ahead.unpack(value[run], run);
    if (r + gridDim.x < norm.rows) load(r + gridDim.x);
  };
  auto write = [&](std::int64_t r, const float(&value)[Runs][wide]) {
    auto* out = static_cast<float*>(norm.out.data) + r * norm.out.stride;
    auto* rounded_out = static_cast<__nv_bfloat16*>(norm.rounded.data) + r * norm.rounded.stride;
#pragma unroll
    for (int run = 0; run < Runs; ++run) {
      const int first = ahead.first_of(run);
      if (first >= norm.width) continue;
      if (norm.out.data != nullptr) write_run<float, wide>(out + first, value[run]);
      if (norm.rounded.data != nullptr) store_run(rounded_out + first, value[run]);
    }
  };
  norm_rows<wide, Runs>(norm.rows, norm.width, norm.eps, weight, next, write);
}

/// The gate first, or none.
template <class Y, class Z, class Out, int Runs>
__global__ void __launch_bounds__(max_threads) gated_rms_norm_rows_kernel(const GatedRmsNorm norm) {
  constexpr int wide = std::max({vector_elements<Y>, vector_elements<Z>, vector_elements<Out>});
  const int width = norm.width / norm.groups;
  const int column = static_cast<int>(blockIdx.y) * width;
  LoadedRuns<float, wide, Runs> weight;
  LoadedRuns<Y, wide, Runs> y;
  LoadedRuns<Z, wide, Runs> z;
  weight.load(norm.weight + column, width);
  wait_for_previous();
  auto load = [&](std::int64_t r) {
    y.load(static_cast<const Y*>(norm.y.data) + r * norm.y.stride + column, width);
    if (norm.z.data != nullptr) z.load(static_cast<const Z*>(norm.z.data) + r * norm.z.stride + column, width);
  };
  load(blockIdx.x);
  auto next = [&](std::int64_t r, float(&value)[Runs][wide]) {
#pragma unroll
    for (int run = 0; run < Runs; ++run) {
      y.unpack(value[run], run);
      if (norm.z.data == nullptr) continue;
      float gate[wide];
      z.unpack(gate, run);
#pragma unroll
      for (int e = 0; e < wide; ++e) value[run][e] *= silu(gate[e]);
    }
    if (r + gridDim.x < norm.rows) load(r + gridDim.x);
  };
  auto write = [&](std::int64_t r, const float(&value)[Runs][wide]) {
    Out* out = static_cast<Out*>(norm.out.data) + r * norm.out.stride + column;
#pragma unroll
    for (int run = 0; run < Runs; ++run) {
      const int first = y.first_of(run);
      if (first < width) write_run<Out, wide>(out + first, value[run]);
    }
  };
  norm_rows<wide, Runs>(norm.rows, width, norm.eps, weight, next, write);
}

// ---- launches ----

bool aligned(const void* data, std::int64_t stride, DType dtype) {
  return reinterpret_cast<std::uintptr_t>(data) % vector_bytes == 0 &&
         stride * static_cast<std::int64_t>(element_size(dtype)) % vector_bytes == 0;
}

/// How a block shares a row.
struct Share {
  Share(int width, int wide) {
    const int runs = (width + wide - 1) / wide;
    runs_each = (runs + max_threads - 1) / max_threads;
    threads = ((runs + runs_each - 1) / runs_each + 31) / 32 * 32;
  }
  int runs_each, threads;
};

/// So many blocks a multiprocessor go through all rows.
constexpr int blocks_each = 8;

template <class Arguments>
void launch_rows(void (*kernel)(Arguments), const Arguments& norm, std::int64_t rows, int groups, int threads,
                 const char* name, cudaStream_t stream) {
  const std::int64_t most = std::max(1, blocks_each * current_device().multiprocessors / groups);
  const dim3 blocks(static_cast<unsigned>(std::min(rows, most)), static_cast<unsigned>(groups));
  launch_early<Arguments>(kernel, norm, blocks, threads, name, stream);
}

template <class Arguments>
void launch(void (*kernel)(Arguments), const Arguments& norm, std::int64_t rows, int groups, int width, int wide,
            const char* name, cudaStream_t stream) {
  const int threads = Share(width, wide).threads;
  const std::size_t shared_bytes = sizeof(float) * static_cast<std::size_t>(width);
  if (shared_bytes > 47U << 10) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          name);
  }
  launch_early<Arguments>(kernel, norm, dim3(static_cast<unsigned>(rows), static_cast<unsigned>(groups)), threads, name,
                          stream, shared_bytes);
}

/// Where rows have at most 8192 elements; false elsewhere.
bool launched_in_registers(const RmsNorm& norm, cudaStream_t stream) {
  constexpr int wide = vector_elements<float>;
  const Share share(norm.width, wide);
  auto launch = [&](void (*kernel)(RmsNorm)) {
    launch_rows(kernel, norm, norm.rows, 1, share.threads, "rms_norm", stream);
    return true;
  };
  switch (share.runs_each) {
    case 1: return launch(rms_norm_rows_kernel<1>);
    case 2: return launch(rms_norm_rows_kernel<2>);
    case 3: return launch(rms_norm_rows_kernel<3>);
    case 4: return launch(rms_norm_rows_kernel<4>);
    default: return false;
  }
}

}  // namespace

void rms_norm(const RmsNorm& norm, cudaStream_t stream) {
  if (norm.rows == 0) return;
  with_element_type(norm.dtype, "rms_norm", [&](auto element) {
    using T = typename decltype(element)::type;
    constexpr int wide = vector_elements<T>;
    const bool vectors = norm.width % wide == 0 && aligned(norm.x.data, norm.x.stride, norm.dtype) &&
                         aligned(norm.out.data, norm.out.stride, norm.dtype) &&
                         aligned(norm.residual.data, norm.residual.stride, norm.residual_dtype) &&
                         aligned(norm.rounded.data, norm.rounded.stride, DType::bf16) &&
                         aligned(norm.weight, 0, DType::f32);
    if (vectors && norm.dtype == DType::f32 && norm.residual.data == nullptr && launched_in_registers(norm, stream))
      return;
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

template <class Y, class Z, class Out>
void launch_gated(const GatedRmsNorm& norm, cudaStream_t stream) {
  constexpr int wide = std::max({vector_elements<Y>, vector_elements<Z>, vector_elements<Out>});
  const int width = norm.width / norm.groups;
  const bool vectors = width % wide == 0 && aligned(norm.y.data, norm.y.stride, norm.y_dtype) &&
                       aligned(norm.z.data, norm.z.stride, norm.z_dtype) &&
                       aligned(norm.out.data, norm.out.stride, norm.out_dtype) && aligned(norm.weight, 0, DType::f32);
  const Share share(width, wide);
  const char* const name = "gated_rms_norm";
  auto in_registers = [&](void (*kernel)(GatedRmsNorm)) {
    launch_rows(kernel, norm, norm.rows, norm.groups, share.threads, name, stream);
  };
  const bool gate_first = norm.z.data == nullptr || !norm.norm_before_gate;
  if (vectors && gate_first && share.runs_each == 1) return in_registers(gated_rms_norm_rows_kernel<Y, Z, Out, 1>);
  if (vectors && gate_first && share.runs_each == 2) return in_registers(gated_rms_norm_rows_kernel<Y, Z, Out, 2>);
  if (vectors)
    return launch(gated_rms_norm_kernel<Y, Z, Out, wide>, norm, norm.rows, norm.groups, width, wide, name, stream);
  launch(gated_rms_norm_kernel<Y, Z, Out, 1>, norm, norm.rows, norm.groups, width, 1, name, stream);
}

}  // namespace

void gated_rms_norm(const GatedRmsNorm& norm, cudaStream_t stream) {
  if (norm.rows == 0) return;
  if (norm.z_dtype == DType::f32 && norm.y_dtype == DType::bf16) {
    if (norm.out_dtype == DType::f32) return launch_gated<__nv_bfloat16, float, float>(norm, stream);
    if (norm.out_dtype == DType::bf16) return launch_gated<__nv_bfloat16, float, __nv_bfloat16>(norm, stream);
  }
  if (norm.y_dtype != norm.z_dtype) fail_dtype("gated_rms_norm y", norm.y_dtype, "that of z");
  if (norm.out_dtype != norm.z_dtype) fail_dtype("gated_rms_norm out", norm.out_dtype, "that of z");
  with_element_type(norm.z_dtype, "gated_rms_norm", [&](auto element) {
    using T = typename decltype(element)::type;
    launch_gated<T, T, T>(norm, stream);
  });
}

}  // namespace mamba2::cuda
