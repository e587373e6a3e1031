// Causal attention of prompts on tensor cores, with q, k, v and the shares of keys rounded to bf16 and summed in f32.
//
// Parallel: a block has the rows of a head's next 128 tokens of a sequence, its warps 16 rows each; it passes over the
// keys up to the last of its tokens, a tile at a time in shared memory, and keeps each row's largest score, sum and
// weighted values in registers (Dao 2023, "FlashAttention-2", section 3.1).  The next tile is under way in registers
// meanwhile.  A row's bits depend on its own q and the keys before it alone: tiles begin at key 0, and a key that is
// hidden from a row adds an exact zero.
//
// The cache is f32 and is rounded on its way to shared memory: that costs twice the reads of L2, and no place for a
// second cache.
#include "mamba2/cuda/attention.h"
#include "mamba2/cuda/batch.cuh"
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/mma.cuh"

namespace mamba2::cuda {
namespace {

constexpr int warps = 8, block_threads = 32 * warps;
constexpr int warp_rows = 16, block_rows = warps * warp_rows;

/// Sizes of a tile of keys in shared memory.
template <int HeadDim>
struct Tile {
  static constexpr int keys = HeadDim <= 64 ? 64 : 32;
  static constexpr int stride = HeadDim + 8;  // bf16s from one key to the next: rows start in different banks
  static constexpr int words = keys * HeadDim / 4 / block_threads;  // of 16 bytes of f32, that a thread brings
  static_assert(keys * HeadDim % (4 * block_threads) == 0);
};

/// The tokens of a block: its sequence and the first and number of its rows; none: past the last.
struct BlockRows {
  std::int64_t first = 0;
  int sequence = 0, count = 0;
};

__device__ BlockRows rows_of_block(const Batch& batch, int block) {
  for (int s = 0; s < batch.sequences; ++s) {
    const std::int64_t begin = batch.sequence_start[s], length = batch.sequence_start[s + 1] - begin;
    const auto blocks = static_cast<int>((length + block_rows - 1) / block_rows);
    if (block >= blocks) {
      block -= blocks;
      continue;
    }
    // the last first: they have most keys
    const std::int64_t from = static_cast<std::int64_t>(blocks - 1 - block) * block_rows;
    return {begin + from, s, static_cast<int>(min(static_cast<std::int64_t>(block_rows), length - from))};
  }
  return {};
}

/// A thread's part of a tile of keys or values on its way from the cache.
template <int HeadDim>
struct Part {
  uint4 words[Tile<HeadDim>::words];

  /// Keys from `first` on; those past `last` are zeros.
  __device__ __forceinline__ void load(const float* cache, std::int64_t key_stride, int first, int last) {
#pragma unroll
    for (int i = 0; i < Tile<HeadDim>::words; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * block_threads, key = at / (HeadDim / 4),
                word = at % (HeadDim / 4);
      words[i] = {};
      if (first + key <= last) words[i] = load_vector(cache + (first + key) * key_stride + 4 * word);
    }
  }
  __device__ __forceinline__ void store(__nv_bfloat16* tile) const {
#pragma unroll
    for (int i = 0; i < Tile<HeadDim>::words; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * block_threads, key = at / (HeadDim / 4),
                word = at % (HeadDim / 4);
      float values[4];
      unpack_vector<float>(values, words[i]);
      store_run(tile + key * Tile<HeadDim>::stride + 4 * word, values);
    }
  }
};

/// Four matrices of 8 x 8 bf16, of which lane i names row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const __nv_bfloat16* row) {
#if __CUDA_ARCH__ >= 800
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(at));
#endif
}
__device__ __forceinline__ void load_transposed(unsigned (&to)[4], const __nv_bfloat16* row) {
#if __CUDA_ARCH__ >= 800
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(at));
#endif
}

/// A warp's 16 rows, rows g and g + 8 a lane's: q, and what is known of the result.
template <int HeadDim>
struct WarpRows {
  static constexpr int steps = HeadDim / 16, key_groups = Tile<HeadDim>::keys / 8;
  static constexpr int dim_groups = HeadDim / 8;

  unsigned q[steps][4];
  float out[dim_groups][4] = {};
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {};
  int last[2];  // key that a row sees; -1: no such row, or none that the cache holds
  int g, t;

  __device__ __forceinline__ WarpRows(const Attention& op, const BlockRows& rows, int head)
      : g(static_cast<int>(threadIdx.x) % 32 / 4), t(static_cast<int>(threadIdx.x) % 4) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = static_cast<int>(threadIdx.x) / 32 * warp_rows + g + 8 * half;
      const std::int64_t token = rows.first + min(row, rows.count - 1);
      const int position = op.positions[token];
      last[half] = row < rows.count && position < op.capacity ? max(position, -1) : -1;
      const float* const from = op.q.data + token * op.q.token_stride + head * op.q.head_stride + 2 * t;
#pragma unroll
      for (int k = 0; k < steps; ++k) {
        q[k][half] = packed(from[16 * k], from[16 * k + 1], __nv_bfloat16());
        q[k][half + 2] = packed(from[16 * k + 8], from[16 * k + 9], __nv_bfloat16());
      }
    }
  }

  /// Scores of a tile's keys, in units of log 2; -inf where a row does not see the key.
  __device__ __forceinline__ void score(const __nv_bfloat16* keys, int first_key, float scale,
                                        float (&scores)[key_groups][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const __nv_bfloat16* const row = keys + (lane / 16 * 8 + lane % 8) * Tile<HeadDim>::stride + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < key_groups; n += 2) {
      float pair[2][4] = {};
#pragma unroll
      for (int k = 0; k < steps; ++k) {
        unsigned b[4];
        load_matrices(b, row + 8 * n * Tile<HeadDim>::stride + 16 * k);
        multiply(pair[0], q[k], b[0], b[1]);
        multiply(pair[1], q[k], b[2], b[3]);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int key = first_key + 8 * (n + i / 4) + 2 * t + i % 2;
        scores[n + i / 4][i % 4] = key <= last[i % 4 / 2] ? pair[i / 4][i % 4] * scale : -INFINITY;
      }
    }
  }

  /// Replaces scores by shares of the sums so far.
  __device__ __forceinline__ void rescale(float (&scores)[key_groups][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float larger = most[half];
#pragma unroll
      for (int n = 0; n < key_groups; ++n) larger = fmaxf(larger, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      larger = fmaxf(larger, __shfl_xor_sync(0xFFFFFFFFU, larger, 1));
      larger = fmaxf(larger, __shfl_xor_sync(0xFFFFFFFFU, larger, 2));
      const float base = larger == -INFINITY ? 0.0F : larger;  // a row that sees nothing yet
      const float kept = exp2f(most[half] - base);
      most[half] = larger;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < key_groups; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[n][i] = exp2f(scores[n][i] - base);
          sum += scores[n][i];
        }
      }
      total[half] = fmaf(total[half], kept, sum);
#pragma unroll
      for (int n = 0; n < dim_groups; ++n) {
        out[n][2 * half] *= kept;
        out[n][2 * half + 1] *= kept;
      }
    }
  }

  __device__ __forceinline__ void add_values(const __nv_bfloat16* values, const float (&shares)[key_groups][4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const __nv_bfloat16* const row = values + (lane / 8 % 2 * 8 + lane % 8) * Tile<HeadDim>::stride + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < key_groups / 2; ++k) {
      unsigned a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&from)[4] = shares[2 * k + i / 2];
        a[i] = packed(from[i % 2 * 2], from[i % 2 * 2 + 1], __nv_bfloat16());
      }
#pragma unroll
      for (int n = 0; n < dim_groups; n += 2) {
        unsigned b[4];
        load_transposed(b, row + 16 * k * Tile<HeadDim>::stride + 8 * n);
        multiply(out[n], a, b[0], b[1]);
        multiply(out[n + 1], a, b[2], b[3]);
      }
    }
  }

  __device__ __forceinline__ void write(const Attention& op, const BlockRows& rows, int head) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      total[half] += __shfl_xor_sync(0xFFFFFFFFU, total[half], 1);
      total[half] += __shfl_xor_sync(0xFFFFFFFFU, total[half], 2);
      const int row = static_cast<int>(threadIdx.x) / 32 * warp_rows + g + 8 * half;
      if (row >= rows.count) continue;
      float* const to = op.out.data + (rows.first + row) * op.out.token_stride + head * op.out.head_stride + 2 * t;
#pragma unroll
      for (int n = 0; n < dim_groups; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
          to[8 * n + i] = last[half] < 0 ? not_a_number() : out[n][2 * half + i] / total[half];
      }
    }
  }
};

/// The last key that any of the block's rows sees.
__device__ __forceinline__ int last_key(const Attention& op, const BlockRows& rows) {
  int last = -1;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < rows.count; i += 32) {
    const int position = op.positions[rows.first + i];
    if (position < op.capacity) last = max(last, position);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) last = max(last, __shfl_xor_sync(0xFFFFFFFFU, last, distance));
  return last;
}

template <int HeadDim>
__global__ void __launch_bounds__(block_threads, 1) attend_tiles_kernel(const __grid_constant__ Attention op) {
  __shared__ __align__(16) __nv_bfloat16 keys[Tile<HeadDim>::keys * Tile<HeadDim>::stride],
      values[Tile<HeadDim>::keys * Tile<HeadDim>::stride];
  const BlockRows rows = rows_of_block(op.batch, static_cast<int>(blockIdx.x));
  if (rows.count == 0) return;
  const int head = static_cast<int>(blockIdx.y);
  const std::int64_t key_stride = static_cast<std::int64_t>(op.kv_heads) * HeadDim;
  const std::int64_t cache =
      slot_of(op.batch, rows.sequence) * op.capacity * key_stride + head / (op.heads / op.kv_heads) * HeadDim;
  const int last = last_key(op, rows);
  const float scale = op.scale * 1.4426950408889634F;  // exp(s) = 2^(s / log 2)
  WarpRows<HeadDim> own(op, rows, head);
  Part<HeadDim> next_keys, next_values;
  next_keys.load(op.k_cache + cache, key_stride, 0, last);
  next_values.load(op.v_cache + cache, key_stride, 0, last);
  for (int first = 0; first <= last; first += Tile<HeadDim>::keys) {
    next_keys.store(keys);
    next_values.store(values);
    __syncthreads();
    next_keys.load(op.k_cache + cache, key_stride, first + Tile<HeadDim>::keys, last);
    next_values.load(op.v_cache + cache, key_stride, first + Tile<HeadDim>::keys, last);
    float shares[WarpRows<HeadDim>::key_groups][4];
    own.score(keys, first, scale, shares);
    own.rescale(shares);
    own.add_values(values, shares);
    __syncthreads();
  }
  own.write(op, rows, head);
}

template <int HeadDim>
void launch(const Attention& op, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(op.batch.tokens / block_rows + op.batch.sequences),
                  static_cast<unsigned>(op.heads));
  attend_tiles_kernel<HeadDim><<<grid, block_threads, 0, stream>>>(op);
  check_launch("attention (tiles)");
}

bool aligned(const float* data) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
}

}  // namespace

bool attend_tiles_takes(const Attention& op, int compute_capability) {
  // a block looks for its sequence among all, and a tile of few rows is mostly empty
  constexpr std::int64_t least_tokens_a_sequence = 16;
  constexpr int most_heads = 65535;  // a grid's y
  return compute_capability >= 80 && (op.head_dim == 32 || op.head_dim == 64 || op.head_dim == 128) &&
         op.batch.tokens >= least_tokens_a_sequence * op.batch.sequences && op.heads <= most_heads &&
         aligned(op.k_cache) && aligned(op.v_cache);
}

void attend_tiles(const Attention& op, cudaStream_t stream) {
  if (op.head_dim == 32) return launch<32>(op, stream);
  if (op.head_dim == 64) return launch<64>(op, stream);
  launch<128>(op, stream);
}

}  // namespace mamba2::cuda
