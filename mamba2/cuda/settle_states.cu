// States that take what is pending beside them: before a prompt goes on from them, or somebody reads them.  Seldom, so
// a thread takes an element at a time.
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/grid.cuh"
#include "mamba2/cuda/pending.cuh"
#include "mamba2/cuda/philox.cuh"
#include "mamba2/ops/ops.h"

namespace mamba2::cuda {
namespace {

constexpr int block_threads = 256;
constexpr int head_dim = 64;

__device__ __forceinline__ unsigned random_16_bits(int position, int head, int p, int n, int row_blocks, int layer) {
  const uint4 made =
      philox({state_rounding_key[0], state_rounding_key[1]},
             {8U * static_cast<unsigned>(p * row_blocks + n / 64) + static_cast<unsigned>(n % 16 / 2),
              static_cast<unsigned>(head), static_cast<unsigned>(position), static_cast<unsigned>(layer)});
  const int w = n % 64 / 16;
  const unsigned word = w == 0 ? made.x : w == 1 ? made.y : w == 2 ? made.z : made.w;
  return n % 2 == 0 ? word & 0xFFFFU : word >> 16;
}

/// A block for each head of each sequence.
template <class S, bool Chance>
__global__ void __launch_bounds__(block_threads) settle_kernel(const SettleStates op) {
  const int sequence = static_cast<int>(grid_row()), head = static_cast<int>(blockIdx.x), N = op.shape.state_size;
  if (sequence >= op.sequences) return;
  const std::int64_t slot = op.slots[sequence], slot_head = slot * op.shape.num_heads + head;
  const PendingTokens tokens(op.ends[sequence], op.ring.since[slot], head, op.layer);
  if (tokens.count <= 0) return;
  const int group = head / (op.shape.num_heads / op.shape.n_groups);
  const S* const ring_input = static_cast<const S*>(op.ring.input) + slot_head * pending_room * head_dim;
  const S* const ring_B = static_cast<const S*>(op.ring.B) + (slot * op.shape.n_groups + group) * pending_room * N;
  const float* const ring_decay = op.ring.log_decay + slot_head * pending_room;
  S* const state = static_cast<S*>(op.ssm_state) + slot_head * head_dim * N;

  int places[pending_room];  // the newest first
  float factors[pending_room], later = 0.0F;
#pragma unroll
  for (int i = 0; i < pending_room; ++i) {
    places[i] = static_cast<int>(static_cast<unsigned>(tokens.position - 1 - i) % pending_room);
    factors[i] = i < tokens.count ? expf(later) : 0.0F;
    if (i < tokens.count) later += ring_decay[places[i]];
  }
  const float state_decay = expf(later);
  for (int i = static_cast<int>(threadIdx.x); i < head_dim * N; i += block_threads) {
    const int p = i / N, n = i % N;
    float value = state_decay * as_float(state[i]);
#pragma unroll
    for (int j = 0; j < pending_room; ++j) {
      if (j >= tokens.count) continue;
      const float input = as_float(ring_input[places[j] * head_dim + p]);
      value += factors[j] * input * as_float(ring_B[places[j] * N + n]);
    }
    if constexpr (Chance) {
      const unsigned random = random_16_bits(tokens.position - 1, head, p, n, (N + 63) / 64, op.layer);
      reinterpret_cast<unsigned short*>(state)[i] = static_cast<unsigned short>(rounded_by_chance(value, random));
    } else {
      state[i] = rounded<S>(value);
    }
  }
}

}  // namespace

void settle_states(const SettleStates& op, cudaStream_t stream) {
  if (op.sequences == 0) return;
  auto* kernel = settle_kernel<float, false>;
  if (op.state_dtype == DType::bf16)
    kernel = op.by_chance ? settle_kernel<__nv_bfloat16, true> : settle_kernel<__nv_bfloat16, false>;
  const dim3 grid = grid_of_rows(op.shape.num_heads, op.sequences);
  kernel<<<grid, block_threads, 0, stream>>>(op);
  check_launch("settle_states");
}

}  // namespace mamba2::cuda
