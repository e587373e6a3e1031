// One decode step of the mixer that reads the state and seldom writes it: bound by half the traffic of mixer_step.
//
// With S the state as it is held, j the pending tokens (the last few inputs that S does not hold), c_j the sum of dt A
// after j up to now, and the token itself among them,
//
//   y = exp(c) S C + sum_j exp(c_j) (B_j . C) (dt x)_j + D x
//
// and when there is no room for another input, S becomes exp(c) S + sum_j exp(c_j) (dt x)_j B_j^T.
//
// Parallel: a block takes a run of heads, of one sequence after the other.  One warp has the next heads' states and
// pending inputs copied to shared memory, several ahead, so that memory is busy whatever the others wait for; four
// warps take 16 rows of each state and need no other warp.  Eight lanes share a row, 128 bytes of it at once; each of
// the eight also stands for a place of the ring: it has that token's decay, its product with C and its inputs to the
// lane's rows, so that pending tokens are one more term of the sum over lanes.  C and its products with what is pending
// are made once for all heads of a group.
#include "mamba2/cuda/activation.cuh"
#include "mamba2/cuda/conv_step.h"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/hopper.cuh"
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
constexpr int computing_warps = head_dim / (row_groups * rows);
constexpr int block_threads = (computing_warps + 1) * 32;
constexpr int blocks_each = 3;  // of a multiprocessor
/// Bytes of states on their way to a block, or there: three blocks share 227 KB.
constexpr int staged_bytes = 64 << 10;

template <class S, int N>
struct Tile {
  static constexpr int each = vector_elements<S>;
  static constexpr int own = N / row_lanes;                               // elements of a lane in a row
  static constexpr int vectors = own / each;                              // the same as 16 bytes each
  static constexpr int rows_at_once = rows * own > 32 ? 32 / own : rows;  // that take what is pending
  static constexpr int state_bytes = head_dim * N * static_cast<int>(sizeof(S));
  static constexpr int stages = staged_bytes / state_bytes;

  /// The first element of a lane's vector v.
  static __device__ __forceinline__ int column(int lane, int v) { return (v * row_lanes + lane) * each; }
};

/// A head's state and what is pending beside it.
template <class S, int N>
struct alignas(128) Stage {
  static constexpr int input_stride = head_dim + vector_elements<S>;  // so that lanes of a row find different banks

  S state[head_dim * N];
  S input[pending_room * input_stride];
  float log_decay[pending_room];
};

template <class S, int N>
struct Shared {
  Stage<S, N> stages[Tile<S, N>::stages];
  std::uint64_t full[Tile<S, N>::stages], empty[Tile<S, N>::stages];
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

/// What a lane knows of a sequence, of one of its groups, and of all heads there.
template <class S, int N>
struct GroupInputs {
  int sequence = -1, group = -1, position = 0, since = 0;
  std::int64_t slot = 0;
  const float *row = nullptr, *convolved = nullptr, *B = nullptr;
  S* ring_B = nullptr;
  float C[N / row_lanes];
  float score = 0.0F, own_score = 0.0F;  // products of C with B of the token at the lane's place, and of the next one

  __device__ __forceinline__ void find_sequence(const PendingStep& op, int next) {
    const MixerStep& step = op.step;
    const int conv_dim = (step.shape.num_heads * head_dim) + 2 * step.shape.n_groups * N;
    sequence = next;
    group = -1;
    slot = step.slots != nullptr ? step.slots[sequence] : sequence;
    position = op.positions[sequence];
    since = op.ring.since[slot];
    row = static_cast<const float*>(step.zxBCdt.data) + sequence * step.zxBCdt.stride;
    convolved = step.convolved + static_cast<std::int64_t>(sequence) * conv_dim;
  }

  /// keeps_B: this thread is one of those that put the token's B where it is pending.
  __device__ __forceinline__ void find_group(const PendingStep& op, int next, int lane, bool keeps_B) {
    const SsdShape& shape = op.step.shape;
    const int place = lane % row_lanes, row_group = lane / row_lanes;
    group = next;
    B = convolved + shape.num_heads * head_dim + group * N;
    ring_B = static_cast<S*>(op.ring.B) + (slot * shape.n_groups + group) * pending_room * N;
    load_own_floats<S, N>(C, B + shape.n_groups * N, place);
    const PendingTokens tokens(position, since);
    // Each row group of lanes takes two places of the ring.
    constexpr int places = pending_room / row_groups;
    score = 0.0F;
#pragma unroll
    for (int i = 0; i < places; ++i) {
      const int other = row_group * places + i;
      float sum = 0.0F;
      if (tokens.pending(other)) {
        float kept[N / row_lanes];
        load_own<S, N>(kept, ring_B + other * N, place);
        sum = dot(kept, C);
      }
      const float found = __shfl_sync(all_lanes, row_sum(sum), place / places * row_lanes);
      if (place % places == i) score = found;
    }
    float own_B[N / row_lanes];
    load_own_floats<S, N>(own_B, B, place);
    own_score = row_sum(dot(own_B, C));
    if (keeps_B) store_own<S, N>(ring_B + tokens.place_of_next() * N, own_B, place);
  }
};

/// The state takes what is pending and the next token itself.  held: what is pending at the lane's place, decayed.
template <class S, int N, bool Chance>
__device__ __forceinline__ void update_state(const PendingStep& op, const GroupInputs<S, N>& inputs,
                                             const PendingTokens& tokens, int head, int first_row, int place,
                                             const S* staged, float state_decay, const float (&held)[rows],
                                             float input) {
  using T = Tile<S, N>;
  S* const state =
      static_cast<S*>(op.step.ssm_state) + ((inputs.slot * op.step.shape.num_heads + head) * head_dim + first_row) * N;
#pragma unroll
  for (int first = 0; first < rows; first += T::rows_at_once) {
    float values[T::rows_at_once][T::own], B[T::own];
    load_own_floats<S, N>(B, inputs.B, place);
#pragma unroll
    for (int r = 0; r < T::rows_at_once; ++r) {
      const float added = of_lane(input, first + r);
      load_own<S, N>(values[r], staged + (first_row + first + r) * N, place);
#pragma unroll
      for (int i = 0; i < T::own; ++i) values[r][i] = state_decay * values[r][i] + added * B[i];
    }
#pragma unroll 1
    for (int other = 0; other < pending_room; ++other) {
      if (!tokens.pending(other)) continue;  // the same for the whole block
      load_own<S, N>(B, inputs.ring_B + other * N, place);
#pragma unroll
      for (int r = 0; r < T::rows_at_once; ++r) {
        const float added = of_lane(held[first + r], other);
#pragma unroll
        for (int i = 0; i < T::own; ++i) values[r][i] += added * B[i];
      }
    }
#pragma unroll
    for (int r = 0; r < T::rows_at_once; ++r)
      store_state<S, N, Chance>(op, tokens.position, head, first_row + first + r, place, state + (first + r) * N,
                                values[r]);
  }
}

/// Sixteen rows of a head, once its stage is full.
template <class S, int N, bool Chance>
__device__ __forceinline__ void step_rows(const PendingStep& op, const GroupInputs<S, N>& inputs, int head, int warp,
                                          int lane, const Stage<S, N>& stage, std::uint64_t* full, int parity) {
  using T = Tile<S, N>;
  const MixerStep& step = op.step;
  const int place = lane % row_lanes, first_row = (warp * row_groups + lane / row_lanes) * rows;
  const PendingTokens tokens(inputs.position, inputs.since, head, op.layer);
  // Each lane of a row group has the inputs and the output of one of its rows, the rest have none.
  const bool has_row = place < rows;
  const int p = first_row + (has_row ? place : 0), channel = head * head_dim + p;
  const int conv_dim = step.shape.num_heads * head_dim + 2 * step.shape.n_groups * N;
  const float x = inputs.convolved[channel];
  const float dt_raw = inputs.row[step.shape.num_heads * head_dim + conv_dim + head];
  const float z = step.gate ? inputs.row[channel] : 0.0F;
  const float D = step.D[head * op.D_head_stride + p * op.D_channel_stride];
  const float dt = fminf(fmaxf(softplus(dt_raw + step.dt_bias[head]), step.dt_min), step.dt_max);
  const float log_decay = dt * -expf(step.A_log[head]), input = dt * x;

  barrier_wait(full, parity);
  const bool own_pending = tokens.pending(place);
  float held[rows] = {};
  if (own_pending) load_run(held, stage.input + place * Stage<S, N>::input_stride + first_row);
  const Decay decay(tokens, place, own_pending ? stage.log_decay[place] : 0.0F, log_decay);
#pragma unroll
  for (int r = 0; r < rows; ++r) held[r] *= decay.token;
  float y = 0.0F;  // of the lane's row
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    float values[T::own];
    load_own<S, N>(values, stage.state + (first_row + r) * N, place);
    const float of_row = row_sum(decay.state * dot(values, inputs.C) + inputs.score * held[r]);
    if (place == r) y = of_row;
  }
  if (has_row) {
    y += inputs.own_score * input + D * x;
    static_cast<float*>(step.out.data)[inputs.sequence * step.out.stride + channel] = step.gate ? y * silu(z) : y;
  }
  if (tokens.fills_room) {
    update_state<S, N, Chance>(op, inputs, tokens, head, first_row, place, stage.state, decay.state, held, input);
  } else {
    const std::int64_t at = (inputs.slot * step.shape.num_heads + head) * pending_room + tokens.place_of_next();
    if (has_row) static_cast<S*>(op.ring.input)[at * head_dim + p] = rounded<S>(input);
    if (warp == 0 && lane == 0) op.ring.log_decay[at] = log_decay;
  }
}

/// Heads [first, end) of all sequences' heads in order: a block's.
struct Run {
  int first, end;

  __device__ __forceinline__ Run(const PendingStep& op) {
    const std::int64_t all = static_cast<std::int64_t>(op.step.sequences) * op.step.shape.num_heads;
    first = static_cast<int>(all * blockIdx.x / gridDim.x);
    end = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x);
  }
};

/// A warp has states and pending inputs copied, each as soon as there is room for it.
template <class S, int N>
__device__ __forceinline__ void fill_stages(const PendingStep& op, Shared<S, N>& shared, int lane) {
  using T = Tile<S, N>;
  const int num_heads = op.step.shape.num_heads;
  const std::uint64_t policy = evict_first();
  constexpr int input_bytes = head_dim * static_cast<int>(sizeof(S)), decay_bytes = sizeof(Stage<S, N>::log_decay);
  const Run run(op);
  int sequence = -1, position = 0, since = 0;
  std::int64_t slot = 0;
  for (int task = run.first, turn = 0; task < run.end; ++task, ++turn) {
    const int head = task % num_heads;
    if (task / num_heads != sequence) {
      sequence = task / num_heads;
      slot = op.step.slots != nullptr ? op.step.slots[sequence] : sequence;
      position = op.positions[sequence];
      since = op.ring.since[slot];
    }
    const int at = turn % T::stages;
    if (turn >= T::stages) barrier_wait(shared.empty + at, (turn / T::stages - 1) % 2);
    const PendingTokens tokens(position, since, head, op.layer);
    const std::int64_t slot_head = slot * num_heads + head;
    Stage<S, N>& stage = shared.stages[at];
    std::uint64_t* const full = shared.full + at;
    if (lane == 0) {
      barrier_arrive_expect(full, T::state_bytes + max(tokens.count, 0) * input_bytes + decay_bytes);
      copy_run(stage.state, static_cast<const S*>(op.step.ssm_state) + slot_head * head_dim * N, T::state_bytes, full,
               policy);
      copy_run(stage.log_decay, op.ring.log_decay + slot_head * pending_room, decay_bytes, full, policy);
    }
    if (lane < pending_room && tokens.pending(lane)) {
      const S* const from = static_cast<const S*>(op.ring.input) + (slot_head * pending_room + lane) * head_dim;
      copy_run(stage.input + lane * Stage<S, N>::input_stride, from, input_bytes, full, policy);
    }
    __syncwarp();
  }
}

template <class S, int N, bool Chance>
__global__ void __launch_bounds__(block_threads, blocks_each) pending_kernel(const PendingStep op) {
#if __CUDA_ARCH__ >= 900
  using T = Tile<S, N>;
  extern __shared__ __align__(128) std::byte memory[];
  Shared<S, N>& shared = *reinterpret_cast<Shared<S, N>*>(memory);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < T::stages; ++stage) {
      barrier_init(shared.full + stage, 1);
      barrier_init(shared.empty + stage, computing_warps);
    }
    barrier_init_fence();
  }
  __syncthreads();
  // Neither slots nor positions nor since change while kernels of a step run.
  if (warp == computing_warps) {
    if (!op.step.state_is_settled) wait_for_previous();
    return fill_stages<S, N>(op, shared, lane);
  }
  wait_for_previous();
  const int num_heads = op.step.shape.num_heads, heads_a_group = num_heads / op.step.shape.n_groups;
  const Run run(op);
  GroupInputs<S, N> inputs;
  for (int task = run.first, turn = 0; task < run.end; ++task, ++turn) {
    const int head = task % num_heads, at = turn % T::stages;
    if (task / num_heads != inputs.sequence) inputs.find_sequence(op, task / num_heads);
    // Every head of the group reads B's ring, none at the next token's place.
    const bool keeps_B = head % heads_a_group == 0 && warp == 0 && lane < row_lanes;
    if (head / heads_a_group != inputs.group) inputs.find_group(op, head / heads_a_group, lane, keeps_B);
    step_rows<S, N, Chance>(op, inputs, head, warp, lane, shared.stages[at], shared.full + at, turn / T::stages % 2);
    __syncwarp();
    if (lane == 0) barrier_arrive(shared.empty + at);
  }
#endif
}

template <class S, int N>
void launch(const PendingStep& op, cudaStream_t stream) {
  auto* kernel = pending_kernel<S, N, false>;
  if constexpr (sizeof(S) == 2) {
    if (op.step.rounding.positions != nullptr) kernel = pending_kernel<S, N, true>;
  }
  constexpr int shared_bytes = sizeof(Shared<S, N>);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "pending_step");
  const std::int64_t heads = std::int64_t{op.step.sequences} * op.step.shape.num_heads;
  const std::int64_t blocks = std::min<std::int64_t>(heads, blocks_each * current_device().multiprocessors);
  launch_early<const PendingStep>(kernel, op, dim3(static_cast<unsigned>(blocks)), block_threads, "pending_step",
                                  stream, shared_bytes);
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
