// One decode step of the mixer, bound by the state's traffic: every element read once and written once.
//
// Parallel: sequences x heads, a block each; a warp takes rows of the state (a channel each), neighbouring lanes 16
// bytes of a row each, so that a row's product with C is a reduction over state_size / 4 (f32) or / 8 (bf16) lanes.
// Order: the state's loads, and the convolution's state and weights, are started first, if they may before the kernel
// ahead is done.  The block does the convolution step for its own 64 channels and, again in every block, for its
// group's B and C: 2 * state_size channels of 4 taps against 64 rows of state.  A block shifts its own channels'
// states; B's and C's are read by all blocks of a group, so the last one to have read them (a counter a sequence and
// group) shifts them; nobody waits. For large batches the convolution is a kernel of its own: what is left of a block's
// life is the state's way. A bf16 state may be rounded by chance: one Philox block of random bits for 8 elements.
#include "mamba2/cuda/activation.cuh"
#include "mamba2/cuda/conv_step.cuh"
#include "mamba2/cuda/conv_step.h"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/mixer_step.h"
#include "mamba2/cuda/state_step.cuh"

namespace mamba2::cuda {
namespace {

constexpr int head_dim = 64;
constexpr int block_threads = 256;
/// Blocks that a multiprocessor is to hold: as many as leave registers for the state on its way.
template <class S, int N>
constexpr int blocks_wanted = sizeof(S) * N > 512 ? 2 : 3;

/// What a block's threads share: the convolution's outputs for its head, and the gate.
template <int N>
struct Shared {
  alignas(vector_bytes) float x[head_dim], z[head_dim];
  alignas(vector_bytes) float BC[2 * N];
  bool last;  // of the blocks of its group to have read B's and C's states
};

/// Where the block's channels stand in a sequence.
struct Place {
  int sequence, head, group, inner, conv_dim;
  std::int64_t slot;

  __device__ __forceinline__ explicit Place(const MixerStep& step)
      : sequence(static_cast<int>(blockIdx.y)), head(static_cast<int>(blockIdx.x)) {
    const SsdShape& shape = step.shape;
    group = head / (shape.num_heads / shape.n_groups);
    inner = shape.num_heads * head_dim;
    conv_dim = inner + 2 * shape.n_groups * shape.state_size;
  }
  /// The channel of element i of the group's B (then C).
  template <int N>
  __device__ __forceinline__ int channel_of_BC(int i, int n_groups) const {
    return inner + (i < N ? 0 : (n_groups - 1) * N) + group * N + i;
  }
};

/// A channel of the convolution that a thread steps.
template <int Kernel>
struct Channel {
  float taps[Kernel], weight[Kernel], bias;
  float* state;

  /// What no recent kernel writes.
  __device__ __forceinline__ void load(const MixerStep& step, float* conv_state, int channel) {
    state = conv_state + channel * (Kernel - 1);
#pragma unroll
    for (int k = 0; k + 1 < Kernel; ++k) taps[k] = state[k];
#pragma unroll
    for (int k = 0; k < Kernel; ++k) weight[k] = step.conv_weight[channel * Kernel + k];
    bias = step.conv_bias != nullptr ? step.conv_bias[channel] : 0.0F;
  }
  __device__ __forceinline__ float output(float input) {
    taps[Kernel - 1] = input;
    return conv_output(taps, weight, bias);
  }
  __device__ __forceinline__ void shift() {
    write_taps(state, taps);
  }
};

/// The convolution's step in every block of a head: for the head's own channels, and for its group's B and C, which the
/// last block to have read their states shifts.
template <int N, int Kernel>
struct Convolution {
  static constexpr int BC_each = (2 * N + block_threads - 1) / block_threads;
  Channel<Kernel> own, BC[BC_each];

  static __device__ __forceinline__ int place_of_BC(int i) { return static_cast<int>(threadIdx.x) + i * block_threads; }
  __device__ __forceinline__ void load(const MixerStep& step, const Place& place) {
    float* const conv_state = step.conv_state + place.slot * place.conv_dim * (Kernel - 1);
    const int tid = static_cast<int>(threadIdx.x);
    if (tid < head_dim) own.load(step, conv_state, place.head * head_dim + tid);
#pragma unroll
    for (int i = 0; i < BC_each; ++i)
      if (place_of_BC(i) < 2 * N)
        BC[i].load(step, conv_state, place.channel_of_BC<N>(place_of_BC(i), step.shape.n_groups));
  }
  /// xBC: the sequence's new inputs.
  __device__ __forceinline__ void run(const MixerStep& step, const Place& place, const float* xBC, Shared<N>& to) {
    const int tid = static_cast<int>(threadIdx.x);
    if (tid < head_dim) {
      to.x[tid] = own.output(xBC[place.head * head_dim + tid]);
      own.shift();
    }
#pragma unroll
    for (int i = 0; i < BC_each; ++i)
      if (place_of_BC(i) < 2 * N)
        to.BC[place_of_BC(i)] = BC[i].output(xBC[place.channel_of_BC<N>(place_of_BC(i), step.shape.n_groups)]);
    __syncthreads();
    if (tid != 0) return;
    __threadfence();  // this block's reads come before its arrival
    const unsigned heads_a_group = gridDim.x / static_cast<unsigned>(step.shape.n_groups);
    unsigned* const arrivals = step.arrivals + place.sequence * step.shape.n_groups + place.group;
    to.last = atomicInc(arrivals, heads_a_group - 1) == heads_a_group - 1;
  }
  __device__ __forceinline__ void finish(const Shared<N>& shared) {
    __syncthreads();
    if (!shared.last) return;
#pragma unroll
    for (int i = 0; i < BC_each; ++i)
      if (place_of_BC(i) < 2 * N) BC[i].shift();
  }
};

template <class S, int N, int Kernel, bool Separate, bool ByChance>
__global__ void __launch_bounds__(block_threads, blocks_wanted<S, N>) step_kernel(const MixerStep step) {
  constexpr int each = vector_elements<S>;  // state elements a lane moves at once
  constexpr int row_lanes = N / each < 32 ? N / each : 32;
  constexpr int row_vectors = N / each / row_lanes;  // of one lane in one row
  constexpr int rows_at_once = block_threads / row_lanes;
  constexpr int row_steps = head_dim / rows_at_once;
  __shared__ Shared<N> shared;

  Place place(step);
  const int tid = static_cast<int>(threadIdx.x), lane_in_row = tid % row_lanes, first_row = tid / row_lanes;
  // The batch's slots never change while kernels of its step run.
  place.slot = step.slots != nullptr ? step.slots[place.sequence] : place.sequence;
  S* const state = static_cast<S*>(step.ssm_state) +
                   ((place.slot * step.shape.num_heads + place.head) * head_dim + first_row) * N + lane_in_row * each;
  uint4 loaded[row_steps][row_vectors];
  Convolution<N, Kernel> convolution;
  auto load_states = [&] {
#pragma unroll
    for (int r = 0; r < row_steps; ++r) {
#pragma unroll
      for (int v = 0; v < row_vectors; ++v)
        loaded[r][v] = load_once(state + r * rows_at_once * N + v * row_lanes * each);
    }
    if constexpr (!Separate) convolution.load(step, place);
  };
  if (step.state_is_settled) load_states();
  const float dt_bias = step.dt_bias[place.head], A = -expf(step.A_log[place.head]), D = step.D[place.head];
  wait_for_previous();
  if (!step.state_is_settled) load_states();

  const float* row = static_cast<const float*>(step.zxBCdt.data) + place.sequence * step.zxBCdt.stride;
  const float* xBC = row + place.inner;
  const float dt = fminf(fmaxf(softplus(xBC[place.conv_dim + place.head] + dt_bias), step.dt_min), step.dt_max);
  const float decay = expf(dt * A);
  const float *B = shared.BC, *C = shared.BC + N;
  if (step.gate && tid < head_dim) shared.z[tid] = silu(row[place.head * head_dim + tid]);
  if constexpr (Separate) {
    const float* convolved = step.convolved + static_cast<std::int64_t>(place.sequence) * place.conv_dim;
    if (tid < head_dim) shared.x[tid] = convolved[place.head * head_dim + tid];
    B = convolved + place.channel_of_BC<N>(0, step.shape.n_groups);
    C = convolved + place.channel_of_BC<N>(N, step.shape.n_groups);
    __syncthreads();
  } else {
    convolution.run(step, place, xBC, shared);
  }
  float B_own[row_vectors][each], C_own[row_vectors][each];
#pragma unroll
  for (int v = 0; v < row_vectors; ++v) {
    const int n = (v * row_lanes + lane_in_row) * each;
#pragma unroll
    for (int e = 0; e < each; e += 4) {
      const float4 b = *reinterpret_cast<const float4*>(B + n + e), c = *reinterpret_cast<const float4*>(C + n + e);
      B_own[v][e] = b.x, B_own[v][e + 1] = b.y, B_own[v][e + 2] = b.z, B_own[v][e + 3] = b.w;
      C_own[v][e] = c.x, C_own[v][e + 1] = c.y, C_own[v][e + 2] = c.z, C_own[v][e + 3] = c.w;
    }
  }
  const int position = ByChance ? step.rounding.positions[place.sequence] : 0;
  float* out = static_cast<float*>(step.out.data) + place.sequence * step.out.stride + place.head * head_dim;
#pragma unroll
  for (int r = 0; r < row_steps; ++r) {
    const int p = first_row + r * rows_at_once;
    const float x_p = shared.x[p], added = dt * x_p;
    float y = 0.0F;
#pragma unroll
    for (int v = 0; v < row_vectors; ++v) {
      float values[each];
      unpack_vector<S>(values, loaded[r][v]);
      y = step_state(values, decay, added, B_own[v], C_own[v], y);
      uint4 packed_state;
      if constexpr (ByChance) {
        const int n = (v * row_lanes + lane_in_row) * each;
        packed_state = pack_by_chance<S>(values, random_bits(step.rounding, position, place.head, p, n, (N + 63) / 64));
      } else {
        packed_state = pack_vector<S>(values);
      }
      store_once(state + r * rows_at_once * N + v * row_lanes * each, packed_state);
    }
#pragma unroll
    for (int distance = row_lanes / 2; distance > 0; distance /= 2) y += __shfl_xor_sync(0xFFFFFFFFU, y, distance);
    if (lane_in_row == 0) {
      y = fmaf(D, x_p, y);
      out[p] = step.gate ? y * shared.z[p] : y;
    }
  }
  if constexpr (!Separate) convolution.finish(shared);
}

template <class S, int N, int Kernel>
void launch_kernel(const MixerStep& step, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(step.shape.num_heads), static_cast<unsigned>(step.sequences));
  // The taps of a convolution by itself are that kernel's own affair.
  constexpr int any_kernel = 4;
  const bool separate = step.convolved != nullptr;
  auto* kernel = separate ? step_kernel<S, N, any_kernel, true, false> : step_kernel<S, N, Kernel, false, false>;
  if constexpr (sizeof(S) == 2) {
    if (step.rounding.positions != nullptr)
      kernel = separate ? step_kernel<S, N, any_kernel, true, true> : step_kernel<S, N, Kernel, false, true>;
  }
  launch_early<const MixerStep>(kernel, step, grid, block_threads, "mixer_step", stream);
}

template <class S>
void launch(const MixerStep& step, cudaStream_t stream) {
  auto with_kernel = [&](auto state_size) {
    constexpr int N = decltype(state_size)::value;
    if (step.conv_kernel == 2) return launch_kernel<S, N, 2>(step, stream);
    if (step.conv_kernel == 3) return launch_kernel<S, N, 3>(step, stream);
    launch_kernel<S, N, 4>(step, stream);
  };
  if (step.shape.state_size == 64) {
    with_kernel(std::integral_constant<int, 64>());
  } else if (step.shape.state_size == 128) {
    with_kernel(std::integral_constant<int, 128>());
  } else {
    with_kernel(std::integral_constant<int, 256>());
  }
}

}  // namespace

bool mixer_step_is_tuned(const MixerStep& step) {
  const int N = step.shape.state_size;
  return step.shape.head_dim == head_dim && (N == 64 || N == 128 || N == 256) && step.conv_kernel >= 2 &&
         step.conv_kernel <= 4 && (step.state_dtype == DType::f32 || step.state_dtype == DType::bf16);
}

ConvStep convolution_of(const MixerStep& step) {
  const int inner = step.shape.num_heads * head_dim;
  return {.sequences = step.sequences,
          .channels = inner + 2 * step.shape.n_groups * step.shape.state_size,
          .conv_kernel = step.conv_kernel,
          .x = {static_cast<const float*>(step.zxBCdt.data) + inner, step.zxBCdt.stride},
          .weight = step.conv_weight,
          .bias = step.conv_bias,
          .slots = step.slots,
          .conv_state = step.conv_state,
          .out = step.convolved};
}

void mixer_step(const MixerStep& step, cudaStream_t stream) {
  if (step.sequences == 0) return;
  if (step.convolved != nullptr) conv_step(convolution_of(step), stream);
  if (step.state_dtype == DType::bf16) return launch<__nv_bfloat16>(step, stream);
  launch<float>(step, stream);
}

}  // namespace mamba2::cuda
