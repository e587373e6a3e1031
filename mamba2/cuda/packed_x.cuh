// The rows of x that a product with a packed weight multiplies, as a block has them in shared memory: each element as
// bf16s that sum to it, a part of a row a column of the product, blocks of 32 in the order of lanes.
#pragma once

#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/packed_plan.h"

namespace mamba2::cuda {

constexpr int packed_threads = 32 * packed_warps;
constexpr int x_block_bytes = block_columns * 2;  // of one column

struct PackedJob {
  LinearRows op;
  PackedPlan plan;
  int parts;
  bool vectors;  // x and the norm's weight can be read 16 bytes at a time
};

struct PackedLane {
  int warp, index, g, t;
  __device__ __forceinline__ PackedLane()
      : warp(static_cast<int>(threadIdx.x) / 32),
        index(static_cast<int>(threadIdx.x) % 32),
        g(index / 4),
        t(index % 4) {}
};

/// A block's shared memory.
struct PackedMemory {
  std::byte* bytes;
  const PackedPlan& plan;

  __device__ __forceinline__ float* floats(int at) const { return reinterpret_cast<float*>(bytes + at); }
  __device__ __forceinline__ float* squares() const { return floats(0); }
  /// A tile's sums that a warp leaves: of a tile that an earlier one began, or of one that it began itself.
  __device__ __forceinline__ float* sums(int warp, bool began) const {
    return floats(plan.sums_at) + (2 * warp + (began ? 1 : 0)) * plan.columns * packed_sums_stride;
  }
  __device__ __forceinline__ float* scales(int warp) const {
    return floats(plan.scales_at) + warp * packed_tile_rows * packed_scales_stride;
  }
  /// Columns' sums of x over a block; and the block's x of one column.
  __device__ __forceinline__ float* x_sums(int block) const {
    return floats(plan.x_sums_at) + block * plan.sets() * packed_set_columns;
  }
  __device__ __forceinline__ std::byte* x(int block, int column) const {
    return bytes + plan.x_at + (block * plan.columns + column) * x_block_bytes;
  }
};

/// Four columns as they lie in memory, of f32 or of bf16 (in x and y): to convert them while loads are issued would
/// wait for each.
__device__ __forceinline__ uint4 four_of(const float* from, int place, const PackedJob& job) {
  const auto* const words = reinterpret_cast<const std::uint32_t*>(from) + 4 * place;
  if (job.vectors) return load_vector(words);
  return {words[0], words[1], words[2], words[3]};
}
/// Columns 4 place to 4 place + 3 of a row of x.
__device__ __forceinline__ uint4 four_of_x(const PackedJob& job, int row, int place) {
  const ConstRows& x = job.op.x;
  if (job.op.x_dtype == DType::f32) return four_of(static_cast<const float*>(x.data) + row * x.stride, place, job);
  const auto* const from = static_cast<const __nv_bfloat16*>(x.data) + row * x.stride;
  const uint2 pairs = reinterpret_cast<const uint2*>(from)[place];
  return {pairs.x, pairs.y, 0, 0};
}

__device__ __forceinline__ float4 floats_of(const uint4& bits) {
  return {__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z), __uint_as_float(bits.w)};
}
__device__ __forceinline__ float4 elements_of(const PackedJob& job, const uint4& bits) {
  if (job.op.x_dtype == DType::f32) return floats_of(bits);
  return {low_of(bits.x), high_of(bits.x), low_of(bits.y), high_of(bits.y)};
}

/// Where the four columns lie in shared memory: as the lane of the product that holds them reads its eight.
__device__ __forceinline__ std::byte* place_in_x(const PackedMemory& memory, int column, int place) {
  return memory.x(place / 8, column) + x_offset(place % 8);
}

/// Each product rounded by itself, so that every form of the kernel has the same bits.
__device__ __forceinline__ float4 scaled(const float4& v, const float4& by) {
  return {__fmul_rn(v.x, by.x), __fmul_rn(v.y, by.y), __fmul_rn(v.z, by.z), __fmul_rn(v.w, by.w)};
}

/// Leaves four columns of a row as parts that sum to them, largest first.
__device__ __forceinline__ void store_parts(const PackedJob& job, const PackedMemory& memory, int row, int place,
                                            float4 rest) {
  for (int p = 0; p < job.parts; ++p) {
    const uint2 pairs{packed(rest.x, rest.y, __nv_bfloat16()), packed(rest.z, rest.w, __nv_bfloat16())};
    *reinterpret_cast<uint2*>(place_in_x(memory, row * job.parts + p, place)) = pairs;
    const float2 first = unpacked(pairs.x, __nv_bfloat16()), second = unpacked(pairs.y, __nv_bfloat16());
    rest = {rest.x - first.x, rest.y - first.y, rest.z - second.x, rest.w - second.y};
  }
}

/// Leaves the sum of a block of x, from the eight lanes that have it: all of it in the row's first column.
__device__ __forceinline__ void store_sum(const PackedJob& job, const PackedMemory& memory, int row, int place,
                                          float4 v) {
  float sum = (v.x + v.y) + (v.z + v.w);
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, distance);
  if (place % 8 != 0) return;
  for (int p = 0; p < job.parts; ++p) memory.x_sums(place / 8)[row * job.parts + p] = p == 0 ? sum : 0.0F;
}

/// Brings the rows of x to shared memory, with a norm scaled by its weight, and leaves their sums of squares, in an
/// order that does not depend on how many rows there are.
template <bool Sums>
__device__ void prepare_x(const PackedJob& job, const PackedMemory& memory) {
  constexpr int at_once = 5;  // loads of a thread that are under way together
  const LinearRows& op = job.op;
  const PackedLane lane;
  const int places = job.plan.units * unit_columns / 4, tid = static_cast<int>(threadIdx.x);
  const bool normed = op.norm.weight != nullptr;
  int row = 0, place = tid;  // of the next piece: a row's after each other
  auto step = [&](int& r, int& p) {
    const bool row_ends = p - tid + packed_threads >= places;
    r += row_ends ? 1 : 0;
    p = row_ends ? tid : p + packed_threads;
    return row_ends;
  };
  float squares = 0;
  while (row < op.rows) {
    uint4 values[at_once] = {}, gains[at_once] = {};  // zeros past the last column
    int loaded_row = row, loaded_place = place;
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (loaded_row >= op.rows) continue;
      if (4 * loaded_place < op.inputs) {
        values[i] = four_of_x(job, loaded_row, loaded_place);
        if (normed) gains[i] = four_of(op.norm.weight, loaded_place, job);
      }
      step(loaded_row, loaded_place);
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (row >= op.rows) continue;
      const int own_row = row, own_place = place;
      const bool row_ends = step(row, place);
      float4 v = elements_of(job, values[i]);
      if (normed) {
        squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
        v = scaled(v, floats_of(gains[i]));
        if (row_ends) {
          squares = warp_sum(squares);
          if (lane.index == 0) memory.squares()[lane.warp * packed_most_rows(3) + own_row] = squares;
          squares = 0;
        }
      }
      if (own_place >= places) continue;  // the same for a warp: places are a multiple of 64
      store_parts(job, memory, own_row, own_place, v);
      if constexpr (Sums) store_sum(job, memory, own_row, own_place, v);
    }
  }
  __syncthreads();
}

/// 1 / rms of a row of x, from the squares that the warps have summed.
__device__ __forceinline__ float scale_of(const LinearRows& op, const PackedMemory& memory, int row) {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < packed_warps; ++w) sum += memory.squares()[w * packed_most_rows(3) + row];
  return rsqrtf(sum / static_cast<float>(op.inputs) + op.norm.eps);
}

/// This block's piece of the normed rows: the parts sum to the scaled row again, smallest first without a rounding.
__device__ inline void write_normed(const PackedJob& job, const PackedMemory& memory) {
  const LinearRows& op = job.op;
  const int places = op.inputs / 4, blocks = static_cast<int>(gridDim.x);
  const int piece = (places + blocks - 1) / blocks, first = static_cast<int>(blockIdx.x) * piece;
  const int width = min(piece, places - first);
  for (int i = static_cast<int>(threadIdx.x); i < width * static_cast<int>(op.rows); i += packed_threads) {
    const int row = i / width, place = first + i % width;
    float4 sum{};
    for (int p = job.parts - 1; p >= 0; --p) {
      const uint2 pairs = *reinterpret_cast<const uint2*>(place_in_x(memory, row * job.parts + p, place));
      const float2 low = unpacked(pairs.x, __nv_bfloat16()), high = unpacked(pairs.y, __nv_bfloat16());
      sum = {sum.x + low.x, sum.y + low.y, sum.z + high.x, sum.w + high.y};
    }
    const float scale = scale_of(op, memory, row), values[4] = {sum.x, sum.y, sum.z, sum.w};
    float* const to = static_cast<float*>(op.norm.normed.data) + row * op.norm.normed.stride + 4 * place;
#pragma unroll
    for (int k = 0; k < 4; ++k) to[k] = values[k] * scale;
  }
}

}  // namespace mamba2::cuda
