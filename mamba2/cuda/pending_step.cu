// One decode step of the mixer that reads the state and seldom writes it: bound by half the traffic of mixer_step.
//
// With S the state as it is held, j the pending tokens (the last few inputs that S does not hold), c_j the sum of dt A
// after j up to now, and the token itself among them,
//
//   y = exp(c) S C + sum_j exp(c_j) (B_j . C) (dt x)_j + D x
//
// and when there is no room for another input, S becomes exp(c) S + sum_j exp(c_j) (dt x)_j B_j^T.
//
// Parallel: sequences x heads, a block each; a warp takes 16 rows of the state and needs no other warp.  Eight lanes
// share a row, 128 bytes of it at once; each of the eight also stands for a place of the ring: it has that token's
// decay, its product with C and its inputs to the lane's rows, so that pending tokens are one more term of the sum over
// lanes.  Nothing waits for the state's loads but the product itself.
#include "mamba2/cuda/activation.cuh"
#include "mamba2/cuda/conv_step.h"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/pending.cuh"
#include "mamba2/cuda/pending_step.h"
#include "mamba2/cuda/state_step.cuh"

namespace mamba2::cuda {
namespace {

constexpr int head_dim = 64;
constexpr int row_lanes = pending_room;
constexpr int row_groups = 32 / row_lanes;  // of a warp
constexpr unsigned all_lanes = 0xFFFFFFFFU;

constexpr int rows = 4;  // of a lane, one below the other
constexpr int block_threads = head_dim / (row_groups * rows) * 32;

template <class S, int N>
struct Tile {
  static constexpr int each = vector_elements<S>;
  static constexpr int own = N / row_lanes;                               // elements of a lane in a row
  static constexpr int vectors = own / each;                              // the same as 16 bytes each
  static constexpr int rows_at_once = rows * own > 32 ? 32 / own : rows;  // that take what is pending
  /// Blocks that a multiprocessor is to hold: as many as leave registers for the state on its way.
  static constexpr int blocks(bool chance) { return N == 64 ? 5 : sizeof(S) == 2 && !chance ? 4 : 3; }

  /// The first element of a lane's vector v.
  static __device__ __forceinline__ int column(int lane, int v) { return (v * row_lanes + lane) * each; }
};

template <class S, int N>
__device__ __forceinline__ void unpack_row(float (&to)[N / row_lanes], const uint4 (&from)[Tile<S, N>::vectors]) {
  using T = Tile<S, N>;
#pragma unroll
  for (int v = 0; v < T::vectors; ++v) {
    float values[T::each];
    unpack_vector<S>(values, from[v]);
#pragma unroll
    for (int e = 0; e < T::each; ++e) to[v * T::each + e] = values[e];
  }
}

/// A lane's elements of a row of S in memory.
template <class S, int N>
__device__ __forceinline__ void load_own(float (&to)[N / row_lanes], const S* row, int lane) {
  using T = Tile<S, N>;
  uint4 loaded[T::vectors];
#pragma unroll
  for (int v = 0; v < T::vectors; ++v) loaded[v] = load_vector(row + T::column(lane, v));
  unpack_row<S, N>(to, loaded);
}

/// The same elements of a row of floats.
template <class S, int N>
__device__ __forceinline__ void load_own_floats(float (&to)[N / row_lanes], const float* row, int lane) {
  using T = Tile<S, N>;
#pragma unroll
  for (int v = 0; v < T::vectors; ++v) {
#pragma unroll
    for (int e = 0; e < T::each; e += 4) {
      const float4 four = *reinterpret_cast<const float4*>(row + T::column(lane, v) + e);
      float* const at = to + v * T::each + e;
      at[0] = four.x, at[1] = four.y, at[2] = four.z, at[3] = four.w;
    }
  }
}

template <class S, int N>
__device__ __forceinline__ void store_own(S* row, const float (&from)[N / row_lanes], int lane) {
  using T = Tile<S, N>;
#pragma unroll
  for (int v = 0; v < T::vectors; ++v) {
    float values[T::each];
#pragma unroll
    for (int e = 0; e < T::each; ++e) values[e] = from[v * T::each + e];
    store_vector(row + T::column(lane, v), pack_vector<S>(values));
  }
}

/// Four neighbouring elements.
__device__ __forceinline__ void load_run(float (&to)[4], const float* from) {
  unpack_vector<float>(to, load_vector(from));
}
__device__ __forceinline__ void load_run(float (&to)[4], const __nv_bfloat16* from) {
  const uint2 words = *reinterpret_cast<const uint2*>(from);
  const float2 low = unpacked(words.x, __nv_bfloat16()), high = unpacked(words.y, __nv_bfloat16());
  to[0] = low.x, to[1] = low.y, to[2] = high.x, to[3] = high.y;
}

template <int Count>
__device__ __forceinline__ float dot(const float (&a)[Count], const float (&b)[Count]) {
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < Count; ++i) sum += a[i] * b[i];
  return sum;
}

/// The sum over a row's lanes, in each of them.
__device__ __forceinline__ float row_sum(float value) {
#pragma unroll
  for (int distance = row_lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(all_lanes, value, distance);
  return value;
}

__device__ __forceinline__ float of_lane(float value, int lane_in_row) {
  return __shfl_sync(all_lanes, value, lane_in_row, row_lanes);
}

/// How much a lane's pending token, and the state as it is held, have decayed once the next token is in.
struct Decay {
  float token, state;

  /// own: the log of the decay of the token at this lane's place, zero where none is pending; next: the next token's.
  __device__ __forceinline__ Decay(const PendingTokens& tokens, int place, float own, float next) {
    const int later = tokens.later_than(place);
    float sum = next;
#pragma unroll
    for (int i = 1; i < pending_room; ++i) {
      const float other = of_lane(own, (place + i) % pending_room);
      if (i <= later) sum += other;
    }
    token = tokens.pending(place) ? expf(sum) : 0.0F;
    state = expf(of_lane(sum + own, tokens.place_of_next()));  // there lies what is oldest, or nothing
  }
};

/// Rounds a lane's elements of row p of the state and stores them.
template <class S, int N, bool Chance>
__device__ __forceinline__ void store_state(const PendingStep& op, int position, int head, int p, int lane, S* row,
                                            const float (&from)[N / row_lanes]) {
  using T = Tile<S, N>;
#pragma unroll
  for (int v = 0; v < T::vectors; ++v) {
    float part[T::each];
#pragma unroll
    for (int e = 0; e < T::each; ++e) part[e] = from[v * T::each + e];
    const int n = T::column(lane, v);
    if constexpr (Chance) {
      const uint4 random = random_bits(op.step.rounding, position, head, p, n, (N + 63) / 64);
      store_once(row + n, pack_by_chance<S>(part, random));
    } else {
      store_once(row + n, pack_vector<S>(part));
    }
  }
}

/// A lane's part of B . C; B goes to the ring too, where `to` says.
template <class S, int N>
__device__ __forceinline__ float keep_B(const float* from, const float (&C)[N / row_lanes], S* to, int lane) {
  float B[N / row_lanes];
  load_own_floats<S, N>(B, from, lane);
  if (to != nullptr) store_own<S, N>(to, B, lane);
  return dot(B, C);
}

template <class S, int N, bool Chance>
__global__ void __launch_bounds__(block_threads, (Tile<S, N>::blocks(Chance))) pending_kernel(const PendingStep op) {
  using T = Tile<S, N>;
  const MixerStep& step = op.step;
  const SsdShape& shape = step.shape;
  const int sequence = static_cast<int>(blockIdx.y), head = static_cast<int>(blockIdx.x);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int place = lane % row_lanes, row_group = lane / row_lanes;
  const int first_row = (warp * row_groups + row_group) * rows;
  const int heads_a_group = shape.num_heads / shape.n_groups, group = head / heads_a_group;
  // Neither slots nor positions nor since change while kernels of a step run.
  const std::int64_t slot = step.slots != nullptr ? step.slots[sequence] : sequence;
  const std::int64_t slot_head = slot * shape.num_heads + head;
  S* const state = static_cast<S*>(step.ssm_state) + (slot_head * head_dim + first_row) * N;
  S* const ring_input = static_cast<S*>(op.ring.input) + slot_head * pending_room * head_dim;
  S* const ring_B = static_cast<S*>(op.ring.B) + (slot * shape.n_groups + group) * pending_room * N;
  float* const ring_decay = op.ring.log_decay + slot_head * pending_room;

  uint4 loaded[rows][T::vectors];
  auto load_states = [&] {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
#pragma unroll
      for (int v = 0; v < T::vectors; ++v) loaded[r][v] = load_once(state + r * N + T::column(place, v));
    }
  };
  if (step.state_is_settled) load_states();
  const PendingTokens tokens(op.positions[sequence], op.ring.since[slot], head, op.layer);
  const bool own_pending = tokens.pending(place);
  const float dt_bias = step.dt_bias[head], A = -expf(step.A_log[head]);
  wait_for_previous();
  if (!step.state_is_settled) load_states();

  // What lies at the lane's place: its inputs to the lane's rows, and its decay.
  float held[rows] = {};
  if (own_pending) load_run(held, ring_input + place * head_dim + first_row);
  const float held_decay = own_pending ? ring_decay[place] : 0.0F;

  const int inner = shape.num_heads * head_dim, conv_dim = inner + 2 * shape.n_groups * N;
  const float* const row = static_cast<const float*>(step.zxBCdt.data) + sequence * step.zxBCdt.stride;
  const float* const convolved = step.convolved + static_cast<std::int64_t>(sequence) * conv_dim;
  const float* const B = convolved + inner + group * N;
  float C[T::own];
  load_own_floats<S, N>(C, B + shape.n_groups * N, place);
  // The lanes of a row group share its rows: each has the inputs and outputs of one, the rest have none.
  const bool has_row = place < rows;
  const int p = first_row + (has_row ? place : 0), channel = head * head_dim + p;
  const float x = convolved[channel];
  const float dt = fminf(fmaxf(softplus(row[inner + conv_dim + head] + dt_bias), step.dt_min), step.dt_max);
  const float log_decay = dt * A, input = dt * x;
  const Decay decay(tokens, place, held_decay, log_decay);

  // Every head of the group reads B's ring, none at the next token's place.
  const bool writes_B = head % heads_a_group == 0 && warp == 0 && row_group == 0;
  // Products of C with what is pending: each row group takes two places of the ring.
  float score = 0.0F;
#pragma unroll
  for (int i = 0; i < pending_room / row_groups; ++i) {
    const int other = row_group * (pending_room / row_groups) + i;
    float sum = 0.0F;
    if (tokens.pending(other)) {
      float kept[T::own];
      load_own<S, N>(kept, ring_B + other * N, place);
      sum = dot(kept, C);
    }
    sum = row_sum(sum);
    // The lane's own place is its row group's `place / 2`-th.
    const float found = __shfl_sync(all_lanes, sum, place / (pending_room / row_groups) * row_lanes);
    if (place % (pending_room / row_groups) == i) score = found;
  }
  const float own_score = row_sum(keep_B<S, N>(B, C, writes_B ? ring_B + tokens.place_of_next() * N : nullptr, place));
  const float weight = decay.token * score;

  float y = 0.0F;  // of the lane's row
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    float values[T::own];
    unpack_row<S, N>(values, loaded[r]);
    const float of_row = row_sum(decay.state * dot(values, C) + weight * held[r]);
    if (place == r) y = of_row;
  }
  if (has_row) {
    const float D = step.D[head * op.D_head_stride + p * op.D_channel_stride];
    y += own_score * input + D * x;
    static_cast<float*>(step.out.data)[sequence * step.out.stride + channel] = step.gate ? y * silu(row[channel]) : y;
  }
  if (!tokens.fills_room) {
    if (has_row) ring_input[tokens.place_of_next() * head_dim + p] = rounded<S>(input);
    if (threadIdx.x == 0) ring_decay[tokens.place_of_next()] = log_decay;
    return;
  }

  // The state takes what is pending and the token itself.
#pragma unroll
  for (int r = 0; r < rows; ++r) held[r] *= decay.token;
#pragma unroll
  for (int first = 0; first < rows; first += T::rows_at_once) {
    asm volatile("" ::: "memory");  // B is loaded anew: registers are for the state
    float values[T::rows_at_once][T::own], other_B[T::own];
    load_own_floats<S, N>(other_B, B, place);
#pragma unroll
    for (int r = 0; r < T::rows_at_once; ++r) {
      const float added = of_lane(input, first + r);
      unpack_row<S, N>(values[r], loaded[first + r]);
#pragma unroll
      for (int i = 0; i < T::own; ++i) values[r][i] = decay.state * values[r][i] + added * other_B[i];
    }
#pragma unroll 1
    for (int other = 0; other < pending_room; ++other) {
      if (!tokens.pending(other)) continue;  // the same for the whole block
      load_own<S, N>(other_B, ring_B + other * N, place);
#pragma unroll
      for (int r = 0; r < T::rows_at_once; ++r) {
        const float added = of_lane(held[first + r], other);
#pragma unroll
        for (int i = 0; i < T::own; ++i) values[r][i] += added * other_B[i];
      }
    }
#pragma unroll
    for (int r = 0; r < T::rows_at_once; ++r)
      store_state<S, N, Chance>(op, tokens.position, head, first_row + first + r, place, state + (first + r) * N,
                                values[r]);
  }
}

template <class S, int N>
void launch(const PendingStep& op, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(op.step.shape.num_heads), static_cast<unsigned>(op.step.sequences));
  auto* kernel = pending_kernel<S, N, false>;
  if constexpr (sizeof(S) == 2) {
    if (op.step.rounding.positions != nullptr) kernel = pending_kernel<S, N, true>;
  }
  launch_early<const PendingStep>(kernel, op, grid, block_threads, "pending_step", stream);
}

template <class S>
void launch(const PendingStep& op, cudaStream_t stream) {
  if (op.step.shape.state_size == 64) return launch<S, 64>(op, stream);
  launch<S, 128>(op, stream);
}

}  // namespace

void pending_step(const PendingStep& op, cudaStream_t stream) {
  if (op.step.sequences == 0) return;
  conv_step(convolution_of(op.step), stream);
  if (op.step.state_dtype == DType::bf16) return launch<__nv_bfloat16>(op, stream);
  launch<float>(op, stream);
}

}  // namespace mamba2::cuda
