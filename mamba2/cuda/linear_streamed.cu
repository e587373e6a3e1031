// Matrix times few vectors on tensor cores, bound by reading the matrix once: W in bf16, Hopper.
//
// Parallel: a block a multiprocessor, each with an equal run of W's rows, cut into tiles of 32 or 16 rows (and one of
// what is left, so that no byte is read twice).  A stage is a tile's next 512 columns; each of eight warps multiplies
// 64 of them, and a tile's sums fold over the warps in the end.
//
// In flight: a ninth warp keeps all stages (up to 96 KiB) under way by bulk copies.  Weights never change, so it starts
// before the kernel ahead, which leaves x, is done; where x is small two such kernels fit a multiprocessor.
//
// x: rows of f32 are copied to shared memory as a whole, so that their latency is met once, and scaled by the norm's
// weight there, the sums by 1 / rms at the end.  Rows of bf16, which may be many, are read through L1.
//
// Precision: up to eight rows of f32, each element as three bf16s whose sum it is, so that all products are exact and
// summed in f32; or up to 32 rows that are bf16.  The rows of x are columns of the product: none meets another, so a
// row's bits depend on no other row.
//
// Fragments: within 64 columns, which element takes which place of the 16 that one instruction sums is free as long as
// W and x agree: lane (g, t) reads columns 16 t to 16 t + 15 of its row, the second eight first where t is 2 or 3,
// which has no bank conflicts, neither in W's swizzled panels nor in x.
#include <algorithm>

#include "mamba2/cuda/check.h"
#include "mamba2/cuda/device.h"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/hopper.cuh"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/mma.cuh"
#include "mamba2/cuda/tensor_map.h"

namespace mamba2::cuda {
namespace {

constexpr int warps = 8;
constexpr int consumer_threads = 32 * warps, block_threads = consumer_threads + 32;
constexpr int panel_columns = 64;
constexpr int most_stages_bytes = 96 << 10, least_stages = 2;
constexpr int shared_bytes_of_two = 113 << 10;  // a block's, where two are to fit a multiprocessor
constexpr int most_shared_bytes = 226 << 10;
constexpr int x_row_gap = 4;  // floats between rows of x in shared memory: they start in different banks
constexpr int fold_barrier = 1;

struct Streamed {
  CUtensorMap whole_tiles, last_tile;  // boxes of a tile's rows, and of those left
  LinearRows op;
  int block_rows, last_rows;  // of W: in a block, and in its last tile where that is smaller
  int stages;
};

/// What a block keeps in shared memory for tiles of 16 Tiles rows and 8 Columns rows of x; after it the rows of x, if
/// they are f32, then the stages.
template <int Tiles, int Columns>
struct Layout {
  static constexpr int tile_rows = 16 * Tiles;
  static constexpr int panel_bytes = tile_rows * panel_row_bytes;
  static constexpr int stage_bytes = warps * panel_bytes;
  static constexpr int most_stages = most_stages_bytes / stage_bytes;
  static constexpr int fold_stride = tile_rows + 4;  // its rows start in different banks
  static constexpr int fold_floats = 8 * Columns * fold_stride;

  float fold[2][warps][fold_floats];
  float squares[warps][8];
  std::uint64_t full[most_stages], empty[most_stages];

  static __host__ __device__ int x_bytes(const LinearRows& op) {
    if (op.x_dtype != DType::f32) return 0;
    const int row = (op.inputs + x_row_gap) * static_cast<int>(sizeof(float));
    return static_cast<int>(op.rows) * row;
  }
  static __host__ __device__ int ring_at(const LinearRows& op) {
    return (static_cast<int>(sizeof(Layout)) + vector_bytes - 1) / vector_bytes * vector_bytes + x_bytes(op);
  }
  __device__ float* x_row(const LinearRows& op, int row) {
    constexpr int at = (static_cast<int>(sizeof(Layout)) + vector_bytes - 1) / vector_bytes * vector_bytes;
    return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(this) + at) + row * (op.inputs + x_row_gap);
  }
};

/// The sixteen elements that a lane holds of rows of x, as pairs of bf16.
template <class X, int Columns>
struct Fragment;

/// f32: three parts, largest first, that sum to the element.
template <>
struct Fragment<float, 1> {
  static constexpr int parts = 3;
  float values[16];
  unsigned pairs[parts][8];

  /// Sixteen elements of a row in shared memory, null for none: those of the lane's columns, `swap` the second eight
  /// first.
  __device__ __forceinline__ void load(const float* x, int swap) {
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      const float4 four = x != nullptr ? reinterpret_cast<const float4*>(x)[v ^ (2 * swap)] : float4{};
      values[4 * v] = four.x;
      values[4 * v + 1] = four.y;
      values[4 * v + 2] = four.z;
      values[4 * v + 3] = four.w;
    }
  }
  __device__ __forceinline__ void split() {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      unsigned own[parts];
      three_parts(values[2 * i], values[2 * i + 1], own);
#pragma unroll
      for (int p = 0; p < parts; ++p) pairs[p][i] = own[p];
    }
  }
};

template <int Columns>
struct Fragment<__nv_bfloat16, Columns> {
  static constexpr int parts = 1;
  unsigned pairs[Columns][8];

  __device__ __forceinline__ void load(const LinearRows& op, int row, int column, int swap) {
#pragma unroll
    for (int c = 0; c < Columns; ++c) {
      const int own = 8 * c + row;
      const __nv_bfloat16* x = static_cast<const __nv_bfloat16*>(op.x.data) + own * op.x.stride + column;
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        const uint4 four = own < op.rows ? reinterpret_cast<const uint4*>(x)[v ^ swap] : uint4{};
        pairs[c][4 * v] = four.x;
        pairs[c][4 * v + 1] = four.y;
        pairs[c][4 * v + 2] = four.z;
        pairs[c][4 * v + 3] = four.w;
      }
    }
  }
};

/// A block's share of W and where it is in it.
struct Share {
  int first, end, panels, rounds;  // rows of W; panels of 64 columns; stages of a tile

  __device__ __forceinline__ explicit Share(const Streamed& s) {
    first = static_cast<int>(blockIdx.x) * s.block_rows;
    end = min(first + s.block_rows, s.op.outputs);
    panels = s.op.inputs / panel_columns;
    rounds = (panels + warps - 1) / warps;
  }
};

/// Copies the rows of x, which are f32, to shared memory.
template <class L>
__device__ void copy_x(const LinearRows& op, L& shared) {
  constexpr int at_once = 8;
  const int vectors = op.inputs / 4, all = vectors * static_cast<int>(op.rows);
  for (int first = static_cast<int>(threadIdx.x); first < all; first += at_once * consumer_threads) {
    float4 values[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int place = first + i * consumer_threads;
      const float* row = static_cast<const float*>(op.x.data) + place / vectors * op.x.stride;
      if (place < all) values[i] = reinterpret_cast<const float4*>(row)[place % vectors];
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int place = first + i * consumer_threads;
      if (place < all) reinterpret_cast<float4*>(shared.x_row(op, place / vectors))[place % vectors] = values[i];
    }
  }
  named_barrier(fold_barrier, consumer_threads);
}

/// The norm's weight where a thread needs it: the first pieces are read before the kernel ahead is done.
struct Gains {
  static constexpr int kept = 2;
  float4 values[kept];

  __device__ __forceinline__ void load(const LinearRows& op) {
#pragma unroll
    for (int i = 0; i < kept; ++i) {
      const int place = static_cast<int>(threadIdx.x) + i * consumer_threads;
      if (place < op.inputs / 4) values[i] = reinterpret_cast<const float4*>(op.norm.weight)[place];
    }
  }
};

/// Scales the copied rows by the norm's weight and leaves their sums of squares, in an order that does not depend on
/// how many rows there are.
template <class L>
__device__ void apply_norm(const LinearRows& op, const Gains& gains, L& shared) {
  const int tid = static_cast<int>(threadIdx.x), vectors = op.inputs / 4;
  for (int r = 0; r < op.rows; ++r) {
    auto* const x = reinterpret_cast<float4*>(shared.x_row(op, r));
    float squares = 0;
    auto piece = [&](int place, const float4& gain) {
      const float4 v = x[place];
      squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
      x[place] = {v.x * gain.x, v.y * gain.y, v.z * gain.z, v.w * gain.w};
    };
#pragma unroll
    for (int i = 0; i < Gains::kept; ++i)
      if (tid + i * consumer_threads < vectors) piece(tid + i * consumer_threads, gains.values[i]);
    for (int place = tid + Gains::kept * consumer_threads; place < vectors; place += consumer_threads)
      piece(place, reinterpret_cast<const float4*>(op.norm.weight)[place]);
    squares = warp_sum(squares);
    if (tid % 32 == 0) shared.squares[tid / 32][r] = squares;
  }
  named_barrier(fold_barrier, consumer_threads);
}

/// A stage of a block's share of W: its rows and panels.
struct Stage {
  const CUtensorMap* map;
  int row, first_panel, panels, panel_bytes;
};

template <class L>
__device__ __forceinline__ Stage stage_of(const Streamed& s, const Share& share, int number) {
  const int row = share.first + number / share.rounds * L::tile_rows, first = number % share.rounds * warps;
  const bool whole = row + L::tile_rows <= share.first + s.block_rows;
  return {whole ? &s.whole_tiles : &s.last_tile, row, first, min(warps, share.panels - first),
          (whole ? L::tile_rows : s.last_rows) * panel_row_bytes};
}

/// One thread keeps the stages under way.  It lets the next kernel start once all of its own are full and the kernel
/// ahead is done.
template <class L>
__device__ void copy_weights(const Streamed& s, L& shared, std::byte* ring) {
  const Share share(s);
  const int all = (share.end - share.first + L::tile_rows - 1) / L::tile_rows * share.rounds;
  int place = 0, parity = 1;  // the first round finds the stages empty
  for (int number = 0; number < all; ++number) {
    const Stage stage = stage_of<L>(s, share, number);
    barrier_wait(shared.empty + place, parity);
    barrier_arrive_expect(shared.full + place, stage.panels * stage.panel_bytes);
    for (int p = 0; p < stage.panels; ++p)
      copy_box(ring + place * L::stage_bytes + p * L::panel_bytes, stage.map, (stage.first_panel + p) * panel_columns,
               stage.row, shared.full + place);
    if (number + 1 == min(all, s.stages)) {
      wait_for_kernel_before();
      let_next_kernel_start();
    }
    if (++place == s.stages) {
      place = 0;
      parity ^= 1;
    }
  }
}

/// Sixteen columns of two rows of W, by the lane's place in a panel.
__device__ __forceinline__ void load_tile(unsigned (&a)[4][4], const std::byte* panel, int g, int t) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int piece = ((2 * t + (half ^ (t / 2))) ^ g) * vector_bytes;
    const uint4 upper = load_vector(panel + g * panel_row_bytes + piece);
    const uint4 lower = load_vector(panel + (g + 8) * panel_row_bytes + piece);
    const unsigned up[4] = {upper.x, upper.y, upper.z, upper.w}, low[4] = {lower.x, lower.y, lower.z, lower.w};
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      a[2 * half + pair][0] = up[2 * pair];
      a[2 * half + pair][1] = low[2 * pair];
      a[2 * half + pair][2] = up[2 * pair + 1];
      a[2 * half + pair][3] = low[2 * pair + 1];
    }
  }
}

/// 1 / rms of a row of x, from the squares that the warps have summed.
template <class L>
__device__ __forceinline__ float scale_of(const LinearRows& op, const L& shared, int row) {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < warps; ++w) sum += shared.squares[w][row];
  return rsqrtf(sum / static_cast<float>(op.inputs) + op.norm.eps);
}

/// This block's piece of the normed rows.
template <class L>
__device__ void write_normed(const LinearRows& op, L& shared) {
  const int piece = (op.inputs + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x);
  const int first = static_cast<int>(blockIdx.x) * piece, width = min(piece, op.inputs - first);
  if (width <= 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < width * static_cast<int>(op.rows); i += consumer_threads) {
    const int r = i / width, k = first + i % width;
    static_cast<float*>(op.norm.normed.data)[r * op.norm.normed.stride + k] =
        shared.x_row(op, r)[k] * scale_of(op, shared, r);
  }
}

template <class X, int Tiles, int Columns, bool Normed>
__device__ void multiply_weights(const Streamed& s, Layout<Tiles, Columns>& shared, const std::byte* ring) {
  using L = Layout<Tiles, Columns>;
  constexpr int outs = L::tile_rows * 8 * Columns, outs_each = (outs + consumer_threads - 1) / consumer_threads;
  const LinearRows& op = s.op;
  const Share share(s);
  const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, g = tid % 32 / 4, t = tid % 4;
  int stage = 0, parity = 0, buffer = 0;
  Gains gains;
  if constexpr (Normed) gains.load(op);
  wait_for_kernel_before();
  if constexpr (sizeof(X) == 4) copy_x(op, shared);
  if constexpr (Normed) apply_norm(op, gains, shared);
  const float* const x_row = sizeof(X) == 4 && g < op.rows ? shared.x_row(op, g) : nullptr;
  for (int row = share.first; row < share.end; row += L::tile_rows) {
    // What is added to the sums is on its way while they are made.
    float added[outs_each];
#pragma unroll
    for (int i = 0; i < outs_each; ++i) {
      const int place = tid + i * consumer_threads, output = row + place % L::tile_rows, r = place / L::tile_rows;
      const bool exists = place < outs && output < share.end && r < op.rows;
      added[i] = exists && op.bias != nullptr ? op.bias[output] : 0.0F;
      if (exists && op.add.data != nullptr)
        added[i] += static_cast<const float*>(op.add.data)[r * op.add.stride + output];
    }
    constexpr int parts = Fragment<X, Columns>::parts;
    float sums[Tiles][Columns][parts][4] = {};
    for (int round = 0; round < share.rounds; ++round) {
      const int panel = round * warps + warp;
      const bool exists = panel < share.panels;
      Fragment<X, Columns> x;
      if (exists) {
        const int column = panel * panel_columns + 16 * t;
        if constexpr (sizeof(X) == 2) {
          x.load(op, g, column, t / 2);
        } else {
          x.load(x_row != nullptr ? x_row + column : nullptr, t / 2);
          x.split();
        }
      }
      barrier_wait(shared.full + stage, parity);
      if (exists) {
#pragma unroll
        for (int m = 0; m < Tiles; ++m) {
          unsigned a[4][4];
          load_tile(a, ring + stage * L::stage_bytes + warp * L::panel_bytes + m * 16 * panel_row_bytes, g, t);
#pragma unroll
          for (int step = 0; step < 4; ++step) {
#pragma unroll
            for (int c = 0; c < Columns; ++c) {
#pragma unroll
              for (int p = 0; p < parts; ++p) {
                const auto& pairs = x.pairs[parts == 3 ? p : c];
                multiply(sums[m][c][p], a[step], pairs[2 * step], pairs[2 * step + 1]);
              }
            }
          }
        }
      }
      __syncwarp();
      if (tid % 32 == 0) barrier_arrive(shared.empty + stage);
      if (++stage == s.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    float* const fold = shared.fold[buffer][warp];
#pragma unroll
    for (int m = 0; m < Tiles; ++m) {
#pragma unroll
      for (int c = 0; c < Columns; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float sum = sums[m][c][parts - 1][i];
#pragma unroll
          for (int p = parts - 2; p >= 0; --p) sum += sums[m][c][p][i];
          fold[(8 * c + 2 * t + i % 2) * L::fold_stride + 16 * m + g + i / 2 * 8] = sum;
        }
      }
    }
    named_barrier(fold_barrier, consumer_threads);
#pragma unroll
    for (int i = 0; i < outs_each; ++i) {
      const int place = tid + i * consumer_threads, output = row + place % L::tile_rows, r = place / L::tile_rows;
      if (place >= outs || output >= share.end || r >= op.rows) continue;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < warps; ++w) sum += shared.fold[buffer][w][r * L::fold_stride + place % L::tile_rows];
      const float scale = Normed ? scale_of(op, shared, r) : 1.0F;
      static_cast<float*>(op.out.data)[r * op.out.stride + output] = fmaf(sum, scale, added[i]);
    }
    if (Normed && row == share.first) write_normed(op, shared);
    buffer ^= 1;
  }
}

template <class X, int Tiles, int Columns, bool Normed>
__global__ void __launch_bounds__(block_threads, sizeof(X) == 4 ? 2 : 1)
    streamed_kernel(const __grid_constant__ Streamed s) {
#if __CUDA_ARCH__ >= 900
  using L = Layout<Tiles, Columns>;
  extern __shared__ __align__(vector_bytes) std::byte memory[];
  L& shared = *reinterpret_cast<L*>(memory);
  const std::uint32_t ring_at = shared_address(memory) + static_cast<std::uint32_t>(L::ring_at(s.op));
  std::byte* const ring =
      memory + L::ring_at(s.op) + (panel_atom_bytes - ring_at % panel_atom_bytes) % panel_atom_bytes;
  if (threadIdx.x == 0) {
    for (int i = 0; i < s.stages; ++i) {
      barrier_init(shared.full + i, 1);
      barrier_init(shared.empty + i, warps);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x >= consumer_threads) {
    if (threadIdx.x == consumer_threads) copy_weights(s, shared, ring);
    return;
  }
  multiply_weights<X, Tiles, Columns, Normed>(s, shared, ring);
#endif
}

/// Stages that fit beside so many bytes: with another block if there are enough of them, else alone.
template <class L>
int stages_beside(int bytes) {
  constexpr int enough = 2;
  const int with_another = (shared_bytes_of_two - bytes) / L::stage_bytes;
  return std::min(L::most_stages, with_another >= enough ? with_another : (most_shared_bytes - bytes) / L::stage_bytes);
}

template <class X, int Tiles, int Columns, bool Normed>
void launch(const LinearRows& op, cudaStream_t stream) {
  using L = Layout<Tiles, Columns>;
  auto* const kernel = streamed_kernel<X, Tiles, Columns, Normed>;
  static OncePerDevice raised;
  raised.run([&] {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes),
          "linear (streamed)");
  });
  const int blocks = current_device().multiprocessors;
  Streamed s;
  s.op = op;
  s.block_rows = (op.outputs + blocks - 1) / blocks;
  s.last_rows = s.block_rows % L::tile_rows == 0 ? L::tile_rows : s.block_rows % L::tile_rows;
  s.whole_tiles = panel_map(op.weight, DType::bf16, op.inputs, op.outputs, L::tile_rows);
  s.last_tile = panel_map(op.weight, DType::bf16, op.inputs, op.outputs, s.last_rows);
  const int rest = L::ring_at(op) + panel_atom_bytes;
  s.stages = stages_beside<L>(rest);
  const int used = (op.outputs + s.block_rows - 1) / s.block_rows;
  launch_early<const Streamed>(kernel, s, dim3(static_cast<unsigned>(used)), block_threads, "linear (streamed)", stream,
                               static_cast<std::size_t>(rest + s.stages * L::stage_bytes));
}

/// Whether so many rows of f32 leave room for stages of tiles of so many times 16 rows.
template <int Tiles>
bool fits(LinearRows op, std::int64_t rows) {
  using L = Layout<Tiles, 1>;
  op.rows = rows;
  return stages_beside<L>(L::ring_at(op) + panel_atom_bytes) >= least_stages;
}

template <int Tiles>
void launch_f32(const LinearRows& op, cudaStream_t stream) {
  if (op.norm.weight != nullptr) return launch<float, Tiles, 1, true>(op, stream);
  launch<float, Tiles, 1, false>(op, stream);
}

bool aligned(const void* data, std::int64_t stride_bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % vector_bytes == 0 && stride_bytes % vector_bytes == 0;
}

}  // namespace

bool linear_streamed_takes(const LinearRows& op) {
  const bool rows_fit = op.x_dtype == DType::f32 ? op.rows <= few_rows_limit
                                                 : op.x_dtype == DType::bf16 && op.rows <= streamed_rows_limit;
  const bool x_fits = op.x_dtype != DType::f32 || (op.inputs <= most_shared_bytes / 4 && fits<1>(op, 1));
  return x_fits && current_device().compute_capability / 10 == 9 && op.weight_dtype == DType::bf16 && rows_fit &&
         op.inputs % panel_columns == 0 && op.inputs > 0 && aligned(op.weight.data, op.weight.stride * 2) &&
         aligned(op.x.data, op.x.stride * static_cast<std::int64_t>(element_size(op.x_dtype))) &&
         reinterpret_cast<std::uintptr_t>(op.norm.weight) % vector_bytes == 0 &&
         (op.norm.weight == nullptr || op.x_dtype == DType::f32);
}

void linear_streamed(const LinearRows& op, cudaStream_t stream) {
  if (op.rows == 0 || op.outputs == 0) return;
  if (op.x_dtype == DType::bf16) {
    if (op.rows <= 8) return launch<__nv_bfloat16, 2, 1, false>(op, stream);
    if (op.rows <= 16) return launch<__nv_bfloat16, 2, 2, false>(op, stream);
    return launch<__nv_bfloat16, 2, 4, false>(op, stream);
  }
  // Where all rows of x have no room together, some after the others: so that their bits are the same.
  std::int64_t together = op.rows;
  while (!fits<1>(op, together)) together = (together + 1) / 2;
  for (std::int64_t first = 0; first < op.rows; first += together) {
    const LinearRows part = some_rows(op, first, std::min(together, op.rows - first));
    // Fewer, taller tiles where x leaves room: a tile's end is a wait for all warps.
    if (fits<2>(part, part.rows)) {
      launch_f32<2>(part, stream);
    } else {
      launch_f32<1>(part, stream);
    }
  }
}

}  // namespace mamba2::cuda
