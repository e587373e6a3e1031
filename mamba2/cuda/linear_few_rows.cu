// Matrix times up to eight vectors in f32, bound by reading the matrix once.
//
// Parallel: a warp owns Outs neighbouring outputs at a time and walks their rows of W, 16 bytes a lane and step (512 a
// warp), until outputs run out; blocks are as many as the device holds at once, so that no block starts late.
// In flight: `ahead` loads a lane before the first use, past L1; rows of x are read through L1, which W leaves alone,
// and serve Outs rows of W.
// Norm: a warp reads all of x, so it sums the squares beside the products and scales at the end; the normed rows are
// written by all warps, a piece each.
// Start: weights never change, so the first loads are made before the kernel ahead, which leaves x, is done.
// Order: a lane sums its own inputs from first to last, then the lanes fold; so a row's bits depend on no other row and
// not on how many there are.
#include <algorithm>

#include "mamba2/cuda/check.h"
#include "mamba2/cuda/device.h"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/linear.h"

namespace mamba2::cuda {
namespace {

constexpr int block_threads = 256;
constexpr int ahead = 8;

/// 16 bytes that are read once and not kept in L1.
__device__ __forceinline__ uint4 load_streamed(const void* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

/// What a lane takes of a row at once: a vector, or one element where rows are not aligned.
template <class T, bool Vectors>
struct Run;

template <class T>
struct Run<T, true> {
  static constexpr int elements = vector_elements<T>;
  uint4 raw;
  __device__ __forceinline__ void load(const T* from, bool exists) { raw = exists ? load_streamed(from) : uint4{}; }
  __device__ __forceinline__ void widen(float (&to)[elements]) const { unpack_vector<T>(to, raw); }
  static __device__ __forceinline__ void load_x(float (&to)[elements], const float* from, bool exists) {
#pragma unroll
    for (int v = 0; v < elements / 4; ++v) {
      const float4 four = exists ? reinterpret_cast<const float4*>(from)[v] : float4{};
      to[4 * v] = four.x;
      to[4 * v + 1] = four.y;
      to[4 * v + 2] = four.z;
      to[4 * v + 3] = four.w;
    }
  }
};

template <class T>
struct Run<T, false> {
  static constexpr int elements = 1;
  float value;
  __device__ __forceinline__ void load(const T* from, bool exists) { value = exists ? as_float(*from) : 0.0F; }
  __device__ __forceinline__ void widen(float (&to)[1]) const { to[0] = value; }
  static __device__ __forceinline__ void load_x(float (&to)[1], const float* from, bool exists) {
    to[0] = exists ? *from : 0.0F;
  }
};

/// The piece of the normed rows that is this warp's, of as many warps as have outputs.
template <int RowsOfX>
__device__ __forceinline__ void write_normed(const LinearRows& op, const float (&scale)[RowsOfX], int warp, int warps) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int piece = (op.inputs + warps - 1) / warps, last = min((warp + 1) * piece, op.inputs);
#pragma unroll
  for (int r = 0; r < RowsOfX; ++r) {
    if (r >= op.rows) continue;
    const float* x = static_cast<const float*>(op.x.data) + r * op.x.stride;
    float* normed = static_cast<float*>(op.norm.normed.data) + r * op.norm.normed.stride;
    for (int k = warp * piece + lane; k < last; k += 32) normed[k] = x[k] * scale[r] * op.norm.weight[k];
  }
}

template <class T, bool Vectors, int RowsOfX, int Outs, bool Normed>
__global__ void __launch_bounds__(block_threads) few_rows_kernel(const LinearRows op) {
  using Part = Run<T, Vectors>;
  constexpr int elements = Part::elements, steps = ahead / Outs, step_inputs = 32 * elements;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = (static_cast<int>(blockIdx.x) * block_threads + static_cast<int>(threadIdx.x)) / 32;
  const int all_warps = static_cast<int>(gridDim.x) * block_threads / 32;
  const T* const weight = static_cast<const T*>(op.weight.data);
  const float* const x = static_cast<const float*>(op.x.data);
  Part parts[steps][Outs];
  auto load_weights = [&](int first, int at) {
#pragma unroll
    for (int s = 0; s < steps; ++s) {
#pragma unroll
      for (int o = 0; o < Outs; ++o)
        parts[s][o].load(weight + min(first + o, op.outputs - 1) * op.weight.stride + at + s * step_inputs,
                         at + s * step_inputs < op.inputs);
    }
  };
  bool loaded = warp * Outs < op.outputs;
  if (loaded) load_weights(warp * Outs, lane * elements);
  wait_for_previous();
  for (int first = warp * Outs; first < op.outputs; first += all_warps * Outs) {
    float sum[RowsOfX][Outs] = {}, squares[RowsOfX] = {};
    for (int at = lane * elements; at < op.inputs; at += steps * step_inputs) {
      if (!loaded) load_weights(first, at);
      loaded = false;
#pragma unroll
      for (int s = 0; s < steps; ++s) {
        const int k = at + s * step_inputs;
        float w[Outs][elements], gain[elements];
#pragma unroll
        for (int o = 0; o < Outs; ++o) parts[s][o].widen(w[o]);
        if constexpr (Normed) Part::load_x(gain, op.norm.weight + k, k < op.inputs);
#pragma unroll
        for (int r = 0; r < RowsOfX; ++r) {
          float values[elements];
          Part::load_x(values, x + r * op.x.stride + k, r < op.rows && k < op.inputs);
          if constexpr (Normed) {
#pragma unroll
            for (int e = 0; e < elements; ++e) {
              squares[r] = fmaf(values[e], values[e], squares[r]);
              values[e] *= gain[e];
            }
          }
#pragma unroll
          for (int o = 0; o < Outs; ++o) {
#pragma unroll
            for (int e = 0; e < elements; ++e) sum[r][o] = fmaf(values[e], w[o][e], sum[r][o]);
          }
        }
      }
    }
    float scale[RowsOfX];
#pragma unroll
    for (int r = 0; r < RowsOfX; ++r)
      scale[r] = Normed ? rsqrtf(warp_sum(squares[r]) / static_cast<float>(op.inputs) + op.norm.eps) : 1.0F;
    if constexpr (Normed) {
      if (first == warp * Outs) write_normed<RowsOfX>(op, scale, warp, min(all_warps, (op.outputs + Outs - 1) / Outs));
    }
#pragma unroll
    for (int r = 0; r < RowsOfX; ++r) {
#pragma unroll
      for (int o = 0; o < Outs; ++o) {
        float value = warp_sum(sum[r][o]) * scale[r];
        const int output = first + o;
        if (lane != (r * Outs + o) % 32 || r >= op.rows || output >= op.outputs) continue;
        if (op.bias != nullptr) value += op.bias[output];
        if (op.add.data != nullptr) value += static_cast<const float*>(op.add.data)[r * op.add.stride + output];
        static_cast<float*>(op.out.data)[r * op.out.stride + output] = value;
      }
    }
  }
}

/// Blocks of a kernel that the device runs at once.
template <class Kernel>
int resident_blocks(Kernel* kernel) {
  int per_multiprocessor = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, block_threads, 0),
        "linear: blocks that fit a multiprocessor");
  return std::max(1, per_multiprocessor) * current_device().multiprocessors;
}

template <class T, bool Vectors, int RowsOfX, int Outs, bool Normed>
void launch_kernel(const LinearRows& op, cudaStream_t stream) {
  auto* const kernel = few_rows_kernel<T, Vectors, RowsOfX, Outs, Normed>;
  static const int resident = resident_blocks(kernel);
  constexpr int block_outputs = block_threads / 32 * Outs;
  const int wanted = (op.outputs + block_outputs - 1) / block_outputs;
  launch_early<const LinearRows>(kernel, op, dim3(static_cast<unsigned>(std::min(wanted, resident))), block_threads,
                                 "linear (few rows)", stream);
}

template <class T, bool Vectors, int RowsOfX, int Outs>
void launch(const LinearRows& op, cudaStream_t stream) {
  if (op.norm.weight != nullptr) return launch_kernel<T, Vectors, RowsOfX, Outs, true>(op, stream);
  launch_kernel<T, Vectors, RowsOfX, Outs, false>(op, stream);
}

template <class T, bool Vectors>
void launch_for_rows(const LinearRows& op, cudaStream_t stream) {
  if (op.rows == 1) return launch<T, Vectors, 1, 1>(op, stream);
  if (op.rows == 2) return launch<T, Vectors, 2, 2>(op, stream);
  if (op.rows <= 4) return launch<T, Vectors, 4, 2>(op, stream);
  launch<T, Vectors, few_rows_limit, 4>(op, stream);
}

bool aligned(const ConstRows& rows, DType dtype) {
  return reinterpret_cast<std::uintptr_t>(rows.data) % vector_bytes == 0 &&
         rows.stride * static_cast<std::int64_t>(element_size(dtype)) % vector_bytes == 0;
}

}  // namespace

LinearRows some_rows(const LinearRows& op, std::int64_t first, std::int64_t count) {
  LinearRows part = op;
  part.rows = count;
  part.x.data = static_cast<const std::byte*>(op.x.data) +
                first * op.x.stride * static_cast<std::int64_t>(element_size(op.x_dtype));
  part.out.data = static_cast<float*>(op.out.data) + first * op.out.stride;
  if (op.norm.weight != nullptr)
    part.norm.normed.data = static_cast<float*>(op.norm.normed.data) + first * op.norm.normed.stride;
  if (op.add.data != nullptr) part.add.data = static_cast<const float*>(op.add.data) + first * op.add.stride;
  return part;
}

void linear_few_rows(const LinearRows& op, cudaStream_t stream) {
  if (op.rows == 0 || op.outputs == 0) return;
  with_element_type(op.weight_dtype, "linear", [&](auto element) {
    using T = typename decltype(element)::type;
    const bool vectors = op.inputs % vector_elements<T> == 0 && aligned(op.weight, op.weight_dtype) &&
                         aligned(op.x, DType::f32) &&
                         reinterpret_cast<std::uintptr_t>(op.norm.weight) % vector_bytes == 0;
    for (std::int64_t first = 0; first < op.rows; first += few_rows_limit) {
      const LinearRows part = some_rows(op, first, std::min<std::int64_t>(few_rows_limit, op.rows - first));
      if (vectors) {
        launch_for_rows<T, true>(part, stream);
      } else {
        launch_for_rows<T, false>(part, stream);
      }
    }
  });
}

}  // namespace mamba2::cuda
