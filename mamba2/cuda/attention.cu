// Rotation, cache append and causal attention in f32, for any head_dim.
//
// Attention.  Parallel: tokens x heads, a block each; its warps take keys in turn, keys_at_once neighbouring ones at a
// time, lanes take elements lane, lane + 32, ... of a head.  A score is a warp reduction; each warp keeps its own
// largest score, sum and weighted values (Milakov and Gimelshein 2018), merged through shared memory at the end, so
// that the cache is read once and scores are never stored.  Bound by the reads of keys and values through L2.
#include "mamba2/cuda/attention.h"
#include "mamba2/cuda/batch.cuh"
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/element.cuh"

namespace mamba2::cuda {
namespace {

constexpr int block_threads = 256;
constexpr int warps = block_threads / 32;
constexpr int keys_at_once = 4;

__device__ double rope_theta(const Rope& op, int sequence) {
  const std::int64_t length = static_cast<std::int64_t>(op.positions[op.batch.sequence_start[sequence + 1] - 1]) + 1;
  if (!op.dynamic || length <= op.max_position_embeddings) return op.theta;
  const double dim = op.rotary_dim;
  const double stretch = static_cast<double>(length) / static_cast<double>(op.max_position_embeddings);
  return op.theta * pow(op.factor * stretch - (op.factor - 1.0), dim / (dim - 2.0));
}

/// A block a token.  Angles in double: a position of 100 000 times 1 has no digits left for its turn in f32.
__global__ void __launch_bounds__(block_threads) rope_kernel(const Rope op) {
  const std::int64_t t = blockIdx.x;
  const int half = op.rotary_dim / 2;
  const double theta = rope_theta(op, sequence_of(op.batch, t));
  const double position = static_cast<double>(op.positions[t]) / op.position_divisor;
  for (int i = static_cast<int>(threadIdx.x); i < half; i += block_threads) {
    const double angle = position * pow(theta, -2.0 * i / op.rotary_dim);
    const auto cosine = static_cast<float>(cos(angle)), sine = static_cast<float>(sin(angle));
    for (int h = 0; h < op.heads; ++h) {
      float* x = op.x.data + t * op.x.token_stride + h * op.x.head_stride;
      const float low = x[i], high = x[i + half];
      x[i] = low * cosine - high * sine;
      x[i + half] = high * cosine + low * sine;
    }
  }
}

__global__ void __launch_bounds__(block_threads) append_kernel(const Attention op) {
  const std::int64_t t = blockIdx.x, position = op.positions[t];
  if (position < 0 || position >= op.capacity) return;
  const std::int64_t slot = slot_of(op.batch, sequence_of(op.batch, t));
  const std::int64_t to = (slot * op.capacity + position) * op.kv_heads * op.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < op.kv_heads * op.head_dim; i += block_threads) {
    const int h = i / op.head_dim, d = i % op.head_dim;
    op.k_cache[to + i] = op.k.data[t * op.k.token_stride + h * op.k.head_stride + d];
    op.v_cache[to + i] = op.v.data[t * op.v.token_stride + h * op.v.head_stride + d];
  }
}

template <int PerLane>
__global__ void __launch_bounds__(block_threads) attend_kernel(const Attention op) {
  extern __shared__ float merged[];  // (warps, head_dim)
  __shared__ float warp_most[warps], warp_total[warps];
  const std::int64_t t = blockIdx.x;
  const int h = static_cast<int>(blockIdx.y), kv_head = h / (op.heads / op.kv_heads);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t last = op.positions[t];
  float* out = op.out.data + t * op.out.token_stride + h * op.out.head_stride;
  if (last < 0 || last >= op.capacity) {
    for (int d = static_cast<int>(threadIdx.x); d < op.head_dim; d += block_threads) out[d] = not_a_number();
    return;
  }
  const std::int64_t slot = slot_of(op.batch, sequence_of(op.batch, t));
  const std::int64_t key_stride = static_cast<std::int64_t>(op.kv_heads) * op.head_dim;
  const std::int64_t first = slot * op.capacity * key_stride + static_cast<std::int64_t>(kv_head) * op.head_dim;
  const float* q_row = op.q.data + t * op.q.token_stride + h * op.q.head_stride;
  float q[PerLane], sum[PerLane];
#pragma unroll
  for (int i = 0; i < PerLane; ++i) {
    const int d = lane + 32 * i;
    q[i] = d < op.head_dim ? q_row[d] * op.scale : 0.0F;
    sum[i] = 0.0F;
  }
  float most = -INFINITY, total = 0.0F;
  for (std::int64_t j = warp * keys_at_once; j <= last; j += warps * keys_at_once) {
    float score[keys_at_once];
#pragma unroll
    for (int n = 0; n < keys_at_once; ++n) {
      const float* key = op.k_cache + first + min(j + n, last) * key_stride;
      score[n] = 0.0F;
#pragma unroll
      for (int i = 0; i < PerLane; ++i)
        if (lane + 32 * i < op.head_dim) score[n] += q[i] * key[lane + 32 * i];
    }
    float larger = most;
#pragma unroll
    for (int n = 0; n < keys_at_once; ++n) {
      score[n] = warp_sum(score[n]);
      if (j + n > last) score[n] = -INFINITY;
      larger = fmaxf(larger, score[n]);
    }
    const float kept = expf(most - larger);
    most = larger;
    total *= kept;
#pragma unroll
    for (int i = 0; i < PerLane; ++i) sum[i] *= kept;
#pragma unroll
    for (int n = 0; n < keys_at_once; ++n) {
      const float share = expf(score[n] - most);
      const float* value = op.v_cache + first + min(j + n, last) * key_stride;
      total += share;
#pragma unroll
      for (int i = 0; i < PerLane; ++i)
        if (lane + 32 * i < op.head_dim) sum[i] += share * value[lane + 32 * i];
    }
  }
  if (lane == 0) {
    warp_most[warp] = most;
    warp_total[warp] = total;
  }
#pragma unroll
  for (int i = 0; i < PerLane; ++i)
    if (lane + 32 * i < op.head_dim) merged[warp * op.head_dim + lane + 32 * i] = sum[i];
  __syncthreads();
  float largest = warp_most[0];
  for (int w = 1; w < warps; ++w) largest = fmaxf(largest, warp_most[w]);
  float denominator = 0.0F;
  for (int w = 0; w < warps; ++w) denominator += warp_total[w] * expf(warp_most[w] - largest);
  for (int d = static_cast<int>(threadIdx.x); d < op.head_dim; d += block_threads) {
    float value = 0.0F;
    for (int w = 0; w < warps; ++w) value += merged[w * op.head_dim + d] * expf(warp_most[w] - largest);
    out[d] = value / denominator;
  }
}

template <int PerLane>
void launch_attend(const Attention& op, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(op.batch.tokens), static_cast<unsigned>(op.heads));
  const std::size_t shared = sizeof(float) * warps * static_cast<std::size_t>(op.head_dim);
  attend_kernel<PerLane><<<grid, block_threads, shared, stream>>>(op);
  check_launch("attention");
}

}  // namespace

void rope(const Rope& op, cudaStream_t stream) {
  if (op.batch.tokens == 0 || op.rotary_dim == 0 || op.heads == 0) return;
  rope_kernel<<<static_cast<unsigned>(op.batch.tokens), block_threads, 0, stream>>>(op);
  check_launch("rope");
}

void append(const Attention& op, cudaStream_t stream) {
  if (op.batch.tokens == 0 || op.kv_heads == 0) return;
  append_kernel<<<static_cast<unsigned>(op.batch.tokens), block_threads, 0, stream>>>(op);
  check_launch("attention (append)");
}

void attend(const Attention& op, cudaStream_t stream) {
  if (op.batch.tokens == 0 || op.heads == 0) return;
  if (op.head_dim <= 32) return launch_attend<1>(op, stream);
  if (op.head_dim <= 64) return launch_attend<2>(op, stream);
  if (op.head_dim <= 128) return launch_attend<4>(op, stream);
  if (op.head_dim <= 256) return launch_attend<8>(op, stream);
  launch_attend<attention_max_head_dim / 32>(op, stream);
}

}  // namespace mamba2::cuda
