// Packed matrix times few vectors on tensor cores, bound by reading the matrix once.
//
// Arithmetic: quants are small integers, which bf16 holds exactly; elements of x are the sum of three bf16s, or are
// one. So the products are exact, those of a group of columns are summed in f32 on the tensor cores, and the sum meets
// its scale in f32.  Bytes of x with a scale a block, as the CPU has them, would halve the instructions but cost 0.5 to
// 1 % of the logits' rms; here nothing is lost, and the instructions hide behind memory.  q4_k is scale (q - 8) + (8
// scale - min), terms of the weights' own size.
//
// Parts: those of a row of x are columns of the product like the rows themselves, so one instruction of 16 x 16 weights
// serves two rows of f32.  Columns never meet: a row's bits depend on no other row.
//
// Parallel: a block a multiprocessor, an equal number of W's fours each, as tiles of up to 16 rows.  The tiles' units
// of 256 columns, one after the other, are cut in equal runs for eight warps, which meet again at the very end; a tile
// that several warps have parts of is finished by the one that began it.
//
// In flight: each lane copies the 16 bytes that it will use itself to a ring in shared memory, two to four units of
// 16 rows ahead, so no barrier stands between a warp and its weights.  Weights never change, so it starts before the
// kernel ahead, which leaves x, is done.
#include <algorithm>
#include <limits>

#include "mamba2/cuda/check.h"
#include "mamba2/cuda/device.h"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/hopper.cuh"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/mma.cuh"
#include "mamba2/cuda/packed_x.cuh"

namespace mamba2::cuda {
namespace {

/// Asks for the norm's weight before the rows that it scales are there.
__device__ void prefetch_gain(const LinearRows& op) {
  constexpr int line_floats = 128 / static_cast<int>(sizeof(float));
  const int at = static_cast<int>(threadIdx.x) * line_floats;
  if (op.norm.weight != nullptr && at < op.inputs) asm volatile("prefetch.global.L2 [%0];" ::"l"(op.norm.weight + at));
}

// ---- W ----

/// A stage holds a unit of a tile: the pieces' cells [piece][rows g or g + 8][lane], then the headers' [header][row].
template <DType Type>
struct Stage {
  using Format = PackedFormat<Type>;
  static constexpr int half_bytes = 32 * cell_bytes, headers_at = 2 * Format::pieces * half_bytes;
  static constexpr int bytes = headers_at + Format::headers * packed_tile_rows * cell_bytes;
  static_assert(bytes == packed_tile_fours * Format::unit_bytes);

  std::byte* memory;

  __device__ __forceinline__ std::byte* cell(int piece, int half, const PackedLane& lane) const {
    return memory + (2 * piece + half) * half_bytes + lane.index * cell_bytes;
  }
  __device__ __forceinline__ std::byte* header(int i, int row) const {
    return memory + headers_at + (i * packed_tile_rows + row) * cell_bytes;
  }
};

/// Where a lane's share of the next unit is that it asks for.
template <DType Type>
struct Source {
  using Format = PackedFormat<Type>;
  PackedPlace place;
  const std::byte *cells[2], *header;  // of rows g and g + 8; of its row of headers
  bool has_cells[2], has_header;       // the tile has those rows

  __device__ __forceinline__ Source(const LinearRows& op, const PackedShare& share, int number, const PackedLane& lane)
      : place(share, number) {
    find(op, share, lane);
  }
  __device__ __forceinline__ void find(const LinearRows& op, const PackedShare& share, const PackedLane& lane) {
    const int fours = share.tile_fours(place.tile), row = lane.index % packed_tile_rows,
              which = lane.index / packed_tile_rows;
    const std::int64_t four_bytes = static_cast<std::int64_t>(share.units) * Format::unit_bytes;
    const std::byte* const from = static_cast<const std::byte*>(op.weight.data) +
                                  share.tile_start(place.tile) * four_bytes + place.unit * Format::unit_bytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int four = lane.g / four_rows + 2 * half;
      has_cells[half] = four < fours;
      cells[half] = from + four * four_bytes + lane.index % (4 * four_rows) * cell_bytes;
    }
    has_header = which < Format::headers && row / four_rows < fours;
    header = from + row / four_rows * four_bytes + Format::pieces * piece_bytes + which * header_bytes +
             row % four_rows * cell_bytes;
  }
  __device__ __forceinline__ void next(const LinearRows& op, const PackedShare& share, const PackedLane& lane) {
    place.next(share);
    if (place.unit == 0) return find(op, share, lane);
    cells[0] += Format::unit_bytes;
    cells[1] += Format::unit_bytes;
    header += Format::unit_bytes;
  }

  /// Asks for it; rows that the tile does not have stay what they were.
  __device__ __forceinline__ void copy(const Stage<Type>& stage, const PackedLane& lane) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!has_cells[half]) continue;
#pragma unroll
      for (int p = 0; p < Format::pieces; ++p) copy_vector(stage.cell(p, half, lane), cells[half] + p * piece_bytes);
    }
    if (has_header) copy_vector(stage.header(lane.index / packed_tile_rows, lane.index % packed_tile_rows), header);
  }
};

/// What a lane has of a unit, out of its stage: cells of rows g and g + 8, and how their groups are scaled.
template <DType Type>
struct Unit {
  using Format = PackedFormat<Type>;
  uint4 cells[2][Format::pieces];
  uint4 scales[2];      // of eight blocks in f16, where there are no super-blocks
  const float* spread;  // else the tile's scales in shared memory

  /// To be followed by __syncwarp().
  __device__ __forceinline__ void load(const Stage<Type>& stage, const PackedLane& lane, float* scales_of_warp) {
    spread = scales_of_warp + lane.g * packed_scales_stride;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane.g + 8 * half;
#pragma unroll
      for (int p = 0; p < Format::pieces; ++p) cells[half][p] = load_vector(stage.cell(p, half, lane));
      if constexpr (Format::has_super_blocks) {
        float4 own;
        const std::byte* const header = stage.header(0, row);
        if constexpr (Type == DType::q4_k) {
          float scale[2], min[2];
          q4_k_scales(load_vector(header), load_word(header + 4 * lane.t), scale, min);
          own = {scale[0], fmaf(8.0F, scale[0], -min[0]), scale[1], fmaf(8.0F, scale[1], -min[1])};
        } else {
          float scale[4];
          q6_k_scales(load_word(header + 4 * lane.t), load_word(stage.header(1, row)), scale);
          own = {scale[0], scale[1], scale[2], scale[3]};
        }
        *reinterpret_cast<float4*>(scales_of_warp + row * packed_scales_stride + 4 * lane.t) = own;
      } else {
        scales[half] = load_vector(stage.header(0, row));
      }
    }
  }

  /// A block's rows g and g + 8 as the halves of a product over 32 columns.
  __device__ __forceinline__ void quants(int block, unsigned (&a)[2][4]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      auto word = [&](int i) { return word_of(cells[half][i / 4], i % 4); };
      const int at = quant_word<Type>(block);
      std::uint32_t second = 0, pairs[4];
      if constexpr (Type == DType::q8_0) second = word(at + 1);
      if constexpr (Type == DType::q6_k) second = word(upper_bits_word(block));
      quants_of<Type>(word(at), second, block, pairs);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i / 2][half + 2 * (i % 2)] = pairs[i];
    }
  }

  /// Scales of a block's two groups of 16 columns; for q4_k the second is what the sum of x is multiplied by.
  __device__ __forceinline__ float2 scale(int block, int half) const {
    if constexpr (Format::has_super_blocks) {
      return *reinterpret_cast<const float2*>(spread + 8 * half * packed_scales_stride + 2 * block);
    } else {
      const float both = half_of(word_of(scales[half], block / 2), block % 2);
      return {both, both};
    }
  }
};

/// Adds a unit's products to the tile's sums.
template <DType Type, int Sets>
__device__ __forceinline__ void multiply_unit(const Unit<Type>& unit, const PackedMemory& memory, int first_block,
                                              const PackedLane& lane, float (&sums)[Sets][4]) {
  // Sets past the last column read it again: nobody reads what they sum.
  const std::byte* x[Sets];
#pragma unroll
  for (int s = 0; s < Sets; ++s)
    x[s] = memory.x(first_block, min(packed_set_columns * s + lane.g, memory.plan.columns - 1)) + lane.t * cell_bytes;
#pragma unroll
  for (int block = 0; block < unit_blocks; ++block) {
    unsigned a[2][4];
    unit.quants(block, a);
    const float2 scale[2] = {unit.scale(block, 0), unit.scale(block, 1)};
#pragma unroll
    for (int s = 0; s < Sets; ++s) {
      const uint4 b = load_vector(x[s] + block * memory.plan.columns * x_block_bytes);
      float products[4] = {};
      multiply(products, a[0], b.x, b.y);
      if constexpr (Type == DType::q6_k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums[s][i] = fmaf(products[i], scale[i / 2].x, sums[s][i]);
          products[i] = 0;
        }
      }
      multiply(products, a[1], b.z, b.w);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[s][i] = fmaf(products[i], Type == DType::q6_k ? scale[i / 2].y : scale[i / 2].x, sums[s][i]);
      if constexpr (PackedFormat<Type>::has_min) {
        const float2 x_sum =
            *reinterpret_cast<const float2*>(memory.x_sums(first_block + block) + packed_set_columns * s + 2 * lane.t);
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[s][i] = fmaf(scale[i / 2].y, i % 2 == 0 ? x_sum.x : x_sum.y, sums[s][i]);
      }
    }
  }
}

// ---- out ----

/// Which of a tile's results the i-th of a lane is.
struct Result {
  int tile_row, output, row;
  bool exists;

  __device__ __forceinline__ Result(const PackedJob& job, const PackedShare& share, int tile, int i,
                                    const PackedLane& lane) {
    const int place = lane.index + 32 * i;
    tile_row = place % packed_tile_rows;
    row = place / packed_tile_rows;
    output = share.tile_start(tile) * four_rows + tile_row;
    exists = row < job.op.rows && tile_row < share.tile_fours(tile) * four_rows && output < job.op.outputs;
  }
};

constexpr int results_a_lane(int sets) {
  return sets * packed_set_columns * packed_tile_rows / 32;
}

/// What is added to a tile's sums: on its way while they are made.
template <int Sets>
__device__ __forceinline__ void load_added(const PackedJob& job, const PackedShare& share, int tile,
                                           const PackedLane& lane, float (&added)[results_a_lane(Sets)]) {
  const LinearRows& op = job.op;
#pragma unroll
  for (int i = 0; i < results_a_lane(Sets); ++i) {
    const Result result(job, share, tile, i, lane);
    added[i] = result.exists && op.bias != nullptr ? op.bias[result.output] : 0.0F;
    if (result.exists && op.add.data != nullptr)
      added[i] += static_cast<const float*>(op.add.data)[result.row * op.add.stride + result.output];
  }
}

template <int Sets>
__device__ __forceinline__ void leave_sums(const float (&sums)[Sets][4], float* to, int columns,
                                           const PackedLane& lane) {
#pragma unroll
  for (int s = 0; s < Sets; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = packed_set_columns * s + 2 * lane.t + i % 2;
      if (column < columns) to[column * packed_sums_stride + lane.g + i / 2 * 8] = sums[s][i];
    }
  }
}

/// Of a row: its one part, or its three, smallest first.
__device__ __forceinline__ float sum_of_parts(const float* from, int parts) {
  return parts == 1 ? from[0] : (from[2 * packed_sums_stride] + from[packed_sums_stride]) + from[0];
}

/// Writes a tile's results from the sums that this warp, which began it, and those up to `last` have left.
template <int Sets>
__device__ __forceinline__ void finish_tile(const PackedJob& job, const PackedMemory& memory, const PackedShare& share,
                                            int tile, int last, const PackedLane& lane,
                                            const float (&added)[results_a_lane(Sets)]) {
  const LinearRows& op = job.op;
  constexpr int count = results_a_lane(Sets);
  float sums[count] = {};
  for (int w = lane.warp; w <= last; ++w) {
    if (!share.has_units(w)) continue;
    const float* const left = memory.sums(w, w == lane.warp);
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const Result result(job, share, tile, i, lane);
      // a row that is not there reads the first: no load waits for a branch
      const float* const from =
          left + (result.exists ? result.row * job.parts * packed_sums_stride : 0) + result.tile_row;
      sums[i] += sum_of_parts(from, job.parts);
    }
  }
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const Result result(job, share, tile, i, lane);
    if (!result.exists) continue;
    const float scale = op.norm.weight != nullptr ? scale_of(op, memory, result.row) : 1.0F;
    static_cast<float*>(op.out.data)[result.row * op.out.stride + result.output] = fmaf(sums[i], scale, added[i]);
  }
}

template <int Sets>
__device__ __forceinline__ void clear(float (&sums)[Sets][4]) {
#pragma unroll
  for (int s = 0; s < Sets; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[s][i] = 0;
  }
}

/// Waits until the oldest of so many groups of this lane's copies is there.
__device__ __forceinline__ void wait_for_oldest(int groups) {
  static_assert(packed_most_stages == 4);
  if (groups == 2) return wait_copies<1>();
  if (groups == 4) return wait_copies<3>();
  if (groups == 3) return wait_copies<2>();
  wait_copies<0>();
}

template <DType Type, int Sets>
__global__ void __launch_bounds__(packed_threads, Sets == 1 ? 2 : 1)
    packed_kernel(const __grid_constant__ PackedJob job) {
  extern __shared__ __align__(128) std::byte shared[];
  const PackedMemory memory{shared, job.plan};
  const PackedShare share(job.plan, static_cast<int>(blockIdx.x));
  const PackedLane lane;
  const int begin = share.start_of(lane.warp), end = share.start_of(lane.warp + 1), stages = job.plan.stages;
  std::byte* const ring = shared + job.plan.ring_at + lane.warp * stages * Stage<Type>::bytes;
  PackedPlace at(share, begin);
  Source<Type> source(job.op, share, begin, lane);
  for (int i = 0; i < stages; ++i) {
    if (begin + i < end) source.copy({ring + i * Stage<Type>::bytes}, lane);
    commit_copies();
    source.next(job.op, share, lane);
  }
  prefetch_gain(job.op);
  wait_for_previous();
  prepare_x<PackedFormat<Type>::has_min>(job, memory);
  if (job.op.norm.weight != nullptr) write_normed(job, memory);
  float sums[Sets][4] = {}, added[results_a_lane(Sets)];
  int place = 0;       // in the ring
  bool began = false;  // this tile
  for (int number = begin; number < end; ++number) {
    if (at.unit == 0) {
      began = true;
      load_added<Sets>(job, share, at.tile, lane, added);
    }
    const Stage<Type> stage{ring + place * Stage<Type>::bytes};
    wait_for_oldest(stages);
    __syncwarp();
    Unit<Type> weights;
    weights.load(stage, lane, memory.scales(lane.warp));
    __syncwarp();
    if (number + stages < end) source.copy(stage, lane);
    commit_copies();
    source.next(job.op, share, lane);
    if (++place == stages) place = 0;
    multiply_unit<Type, Sets>(weights, memory, at.unit * unit_blocks, lane, sums);
    const bool tile_ends = at.unit == share.units - 1;
    if (tile_ends || number + 1 == end) leave_sums<Sets>(sums, memory.sums(lane.warp, began), job.plan.columns, lane);
    if (tile_ends) {
      if (began) {
        __syncwarp();
        finish_tile<Sets>(job, memory, share, at.tile, lane.warp, lane, added);
        __syncwarp();
      }
      began = false;
      clear(sums);
    } else if (number + 1 == end) {
      break;  // `at` stays in the tile that others end
    }
    at.next(share);
  }
  __syncthreads();
  if (began) finish_tile<Sets>(job, memory, share, at.tile, share.last_of(at.tile), lane, added);
}

template <DType Type, int Sets>
void launch(const PackedJob& job, cudaStream_t stream) {
  auto* const kernel = packed_kernel<Type, Sets>;
  static OncePerDevice raised;
  raised.run([&] {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, current_device().shared_bytes),
          "linear (packed)");
  });
  launch_early<const PackedJob>(kernel, job, dim3(static_cast<unsigned>(job.plan.blocks)), packed_threads,
                                "linear (packed)", stream, static_cast<std::size_t>(job.plan.bytes));
}

template <DType Type>
void launch_for_sets(const PackedJob& job, cudaStream_t stream) {
  switch (job.plan.sets()) {
    case 1: return launch<Type, 1>(job, stream);
    case 2: return launch<Type, 2>(job, stream);
    default: return launch<Type, packed_most_sets>(job, stream);
  }
}

void launch_for_dtype(const PackedJob& job, cudaStream_t stream) {
  switch (job.op.weight_dtype) {
    case DType::q8_0: return launch_for_sets<DType::q8_0>(job, stream);
    case DType::q4_0: return launch_for_sets<DType::q4_0>(job, stream);
    case DType::q4_k: return launch_for_sets<DType::q4_k>(job, stream);
    case DType::q6_k: return launch_for_sets<DType::q6_k>(job, stream);
    default: fail_dtype("linear (packed)", job.op.weight_dtype, "q8_0, q4_0, q4_k or q6_k");
  }
}

PackedPlan plan_of(const LinearRows& op, int parts) {
  const DeviceProperties& device = current_device();
  return packed_plan({op.weight_dtype, op.inputs, op.outputs, op.rows, parts}, device.multiprocessors,
                     device.shared_bytes);
}

bool aligned(const void* data, std::int64_t stride) {
  return reinterpret_cast<std::uintptr_t>(data) % vector_bytes == 0 && stride % vector_elements<float> == 0;
}

}  // namespace

bool linear_packed_holds(DType dtype, std::int64_t inputs) {
  if (inputs <= 0 || inputs > std::numeric_limits<int>::max()) return false;
  LinearRows op;
  op.rows = op.outputs = 1;
  op.inputs = static_cast<int>(inputs);
  op.weight_dtype = dtype;
  return plan_of(op, 3).rows > 0;
}

void linear_packed(const LinearRows& op, cudaStream_t stream) {
  if (op.rows == 0 || op.outputs == 0) return;
  const int parts = op.x_dtype == DType::f32 ? 3 : 1;
  const int together = plan_of(op, parts).rows;
  if (together == 0) fail_dtype("linear (packed)", op.weight_dtype, "rows that shared memory holds");
  for (std::int64_t first = 0; first < op.rows; first += together) {
    const LinearRows part = some_rows(op, first, std::min<std::int64_t>(together, op.rows - first));
    const bool vectors = aligned(part.x.data, part.x.stride) && aligned(part.norm.weight, 0);
    launch_for_dtype({part, plan_of(part, parts), parts, vectors}, stream);
  }
}

}  // namespace mamba2::cuda
