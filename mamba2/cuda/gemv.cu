// Matrix times a few vectors, bound by reading the matrix once.
//
// Parallel: a block has Groups x 8 outputs; its warps share the inputs, 128 at a time each, and add up through shared
// memory at the end, so that a row of W is read in runs of 256 bytes a warp and 2 KiB a block.
// Arithmetic: mma m16n8k16 with the 16 rows of x as A and 8 rows of W as B, whatever the batch: the tensor cores are
// idle otherwise, and conversions of W to float would be as many instructions as a GPU issues in the time its bytes
// take. A sum over inputs may take them in any order, so a lane's 16 bytes of W (8 neighbouring inputs) are used as
// they come: its first four as k of one product, the others of the next, and x likewise.  No shared memory, no
// shuffles. In flight: 4 x Groups loads of 16 bytes a lane before the first use.
#include <algorithm>

#include "mamba2/cuda/check.h"
#include "mamba2/cuda/device.h"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/gemv.h"

namespace mamba2::cuda {
namespace {

constexpr int warps = 8;
constexpr int group_outputs = 8;
constexpr int step_inputs = 32;  // of a warp's 4 lane columns with 8 each
constexpr int unrolled = 4;

template <class T>
__device__ __forceinline__ void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// 16 bytes that are read once and not kept in L1.
__device__ __forceinline__ uint4 load_streamed(const void* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

template <class T, class Out, int Groups>
__global__ void __launch_bounds__(32 * warps) gemv_kernel(const Gemv product) {
  __shared__ float partial[warps][Groups][32][4];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row = lane / 4, column = lane % 4 * 8;
  const int first_output = static_cast<int>(blockIdx.x) * Groups * group_outputs;
  const T* weight[Groups];
#pragma unroll
  for (int g = 0; g < Groups; ++g) {
    const int output = min(first_output + g * group_outputs + row, product.outputs - 1);
    weight[g] = static_cast<const T*>(product.weight.data) + output * product.weight.stride;
  }
  const T* x = static_cast<const T*>(product.x.data) + row * product.x.stride;
  const bool low = row < product.rows, high = row + 8 < product.rows;
  float sum[Groups][4] = {};
  for (int first = warp * unrolled * step_inputs; first < product.inputs; first += warps * unrolled * step_inputs) {
    uint4 w[unrolled][Groups], x_low[unrolled], x_high[unrolled];
#pragma unroll
    for (int u = 0; u < unrolled; ++u) {
      const int k = first + u * step_inputs + column;
      const bool exists = k < product.inputs;
#pragma unroll
      for (int g = 0; g < Groups; ++g) w[u][g] = exists ? load_streamed(weight[g] + k) : uint4{};
      x_low[u] = exists && low ? load_vector(x + k) : uint4{};
      x_high[u] = exists && high ? load_vector(x + 8 * product.x.stride + k) : uint4{};
    }
#pragma unroll
    for (int u = 0; u < unrolled; ++u) {
      const unsigned first_half[4] = {x_low[u].x, x_high[u].x, x_low[u].y, x_high[u].y};
      const unsigned second_half[4] = {x_low[u].z, x_high[u].z, x_low[u].w, x_high[u].w};
#pragma unroll
      for (int g = 0; g < Groups; ++g) {
        multiply_add<T>(sum[g], first_half, w[u][g].x, w[u][g].y);
        multiply_add<T>(sum[g], second_half, w[u][g].z, w[u][g].w);
      }
    }
  }
#pragma unroll
  for (int g = 0; g < Groups; ++g)
    *reinterpret_cast<float4*>(partial[warp][g][lane]) = {sum[g][0], sum[g][1], sum[g][2], sum[g][3]};
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < Groups * 128; i += 32 * warps) {
    const int g = i / 128, from = i % 128 / 4, e = i % 4;
    const int out_row = from / 4 + e / 2 * 8, output = first_output + g * group_outputs + from % 4 * 2 + e % 2;
    if (out_row >= product.rows || output >= product.outputs) continue;
    float total = product.bias != nullptr ? product.bias[output] : 0.0F;
#pragma unroll
    for (int w = 0; w < warps; ++w) total += partial[w][g][from][e];
    static_cast<Out*>(product.out.data)[out_row * product.out.stride + output] = rounded<Out>(total);
  }
}

template <class T, class Out>
void launch(const Gemv& product, cudaStream_t stream) {
  const int groups = gemv_groups_per_block(product.outputs, current_device().multiprocessors);
  const int block_outputs = groups * group_outputs;
  const auto blocks = static_cast<unsigned>((product.outputs + block_outputs - 1) / block_outputs);
  if (groups == 1) {
    gemv_kernel<T, Out, 1><<<blocks, 32 * warps, 0, stream>>>(product);
  } else if (groups == 2) {
    gemv_kernel<T, Out, 2><<<blocks, 32 * warps, 0, stream>>>(product);
  } else {
    gemv_kernel<T, Out, 4><<<blocks, 32 * warps, 0, stream>>>(product);
  }
  check_launch("gemv");
}

}  // namespace

int gemv_groups_per_block(int outputs, int multiprocessors) {
  constexpr int wanted_blocks = 4;  // a multiprocessor
  for (const int groups : {4, 2}) {
    if (outputs >= wanted_blocks * multiprocessors * groups * group_outputs) return groups;
  }
  return 1;
}

void gemv(const Gemv& product, cudaStream_t stream) {
  if (product.rows == 0 || product.outputs == 0) return;
  auto with_out = [&](auto element) {
    using T = typename decltype(element)::type;
    if (product.out_dtype == DType::f32) return launch<T, float>(product, stream);
    launch<T, T>(product, stream);
  };
  if (product.dtype == DType::bf16) return with_out(ElementType<__nv_bfloat16>());
  if (product.dtype == DType::f16) return with_out(ElementType<__half>());
  fail_dtype("gemv", product.dtype, "f16 or bf16");
}

}  // namespace mamba2::cuda
