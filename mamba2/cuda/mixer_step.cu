// One decode step of the mixer, bound by the state's traffic: every element read once and written once.
//
// Parallel: sequences x heads, a block each; a warp takes rows of the state (a channel each), neighbouring lanes 16
// bytes of a row each, so that a row's product with C is a reduction over state_size / 4 (f32) or / 8 (bf16) lanes.
// Order: the state's loads are started first, if they may before the kernel ahead is done, and fly while the block does
// the convolution step for its own 64 channels and, again in every block, for its group's B and C: 2 * state_size
// channels of 4 taps against 64 rows of state. conv_state: a block shifts its own channels.  B's and C's places are
// read by all blocks of a sequence, so the last one to have read them (a counter a sequence) shifts them; nobody waits.
// For large batches the convolution is a kernel of its own: what is left of a block's life is the state's way.
// A bf16 state may be rounded by chance: one Philox block of random bits for 8 elements.
#include "mamba2/cuda/activation.cuh"
#include "mamba2/cuda/conv_step.cuh"
#include "mamba2/cuda/conv_step.h"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/mixer_step.h"
#include "mamba2/cuda/philox.cuh"
#include "mamba2/ops/ops.h"

namespace mamba2::cuda {
namespace {

constexpr int head_dim = 64;
constexpr int block_threads = 256;
/// Blocks that a multiprocessor is to hold: as many as leave registers for the state on its way.
template <class S, int N>
constexpr int blocks_wanted = sizeof(S) * N > 512 ? 2 : 3;

/// A float to bf16's upper half, rounded up with a probability that is the part cut off; infinities and NaN stay.
__device__ __forceinline__ unsigned rounded_by_chance(float value, unsigned random_16_bits) {
  const unsigned bits = __float_as_uint(value);
  return ((bits & 0x7F800000U) == 0x7F800000U ? bits : bits + random_16_bits) >> 16;
}

/// Random bits for the eight neighbouring elements of row p of a head that this lane holds, two a word.  A Philox block
/// has the bits of two of them and of those 16, 32 and 48 further on, which are three other lanes': each of the four
/// makes one block, and they exchange words.
__device__ __forceinline__ uint4 random_bits(const StochasticRounding& rounding, int position, int head, int p, int n,
                                             int row_blocks) {
  const unsigned w = static_cast<unsigned>(n) % 64 / 16;
  const unsigned pair = static_cast<unsigned>(n) % 16 / 2 + w;
  const uint4 made = philox({state_rounding_key[0], state_rounding_key[1]},
                            {8U * static_cast<unsigned>(p * row_blocks + n / 64) + pair, static_cast<unsigned>(head),
                             static_cast<unsigned>(position), rounding.layer});
  auto word = [&](unsigned i) { return i == 0 ? made.x : i == 1 ? made.y : i == 2 ? made.z : made.w; };
  unsigned own[4];  // from the lane that made the block of pair w ^ i
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) own[i] = __shfl_xor_sync(0xFFFFFFFFU, word(w ^ i), static_cast<int>(2 * i));
  auto of_pair = [&](unsigned j) {
    const unsigned i = j ^ w;
    return i == 0 ? own[0] : i == 1 ? own[1] : i == 2 ? own[2] : own[3];
  };
  return {of_pair(0), of_pair(1), of_pair(2), of_pair(3)};
}

/// Elements of the state as they are kept; random: bits to round by, where that is by chance.
template <class S>
__device__ __forceinline__ uint4 pack_by_chance(const float (&state)[vector_elements<S>], const uint4& random) {
  const unsigned words[4] = {random.x, random.y, random.z, random.w};
  unsigned pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const unsigned high = rounded_by_chance(state[2 * i + 1], words[i] >> 16);
    pairs[i] = rounded_by_chance(state[2 * i], words[i] & 0xFFFFU) | high << 16;
  }
  return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

/// What the blocks of a head's state share: the convolution's outputs for it.
template <int N>
struct Convolved {
  alignas(vector_bytes) float x[head_dim];
  alignas(vector_bytes) float BC[2 * N];
  bool last;  // of the blocks of its sequence to have read B's and C's states
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

/// The convolution's step for the block's own channels, whose states it replaces, and for B and C.
template <int N, int Kernel>
__device__ void convolve(const MixerStep& step, const Place& place, const float* xBC, float* conv_state,
                         Convolved<N>& to) {
  const int tid = static_cast<int>(threadIdx.x);
  auto output = [&](int channel, float(&taps)[Kernel]) {
    read_taps(taps, conv_state + channel * (Kernel - 1), xBC[channel]);
    return conv_output(taps, step.conv_weight + channel * Kernel,
                       step.conv_bias != nullptr ? step.conv_bias[channel] : 0.0F);
  };
  float taps[Kernel];
  if (tid < head_dim) {
    const int channel = place.head * head_dim + tid;
    to.x[tid] = output(channel, taps);
    write_taps(conv_state + channel * (Kernel - 1), taps);
  }
  for (int i = tid; i < 2 * N; i += block_threads)
    to.BC[i] = output(place.channel_of_BC<N>(i, step.shape.n_groups), taps);
  __syncthreads();
  if (tid == 0) {
    __threadfence();  // this block's reads come before its arrival
    to.last = atomicInc(step.arrivals + place.sequence, gridDim.x - 1) == gridDim.x - 1;
  }
}

/// B's and C's states after the step, by the block that read them last.
template <int N, int Kernel>
__device__ void shift_BC(const MixerStep& step, const Place& place, const float* xBC, float* conv_state) {
  for (int i = static_cast<int>(threadIdx.x); i < 2 * step.shape.n_groups * N; i += block_threads) {
    float* state = conv_state + (place.inner + i) * (Kernel - 1);
    float taps[Kernel];
    read_taps(taps, state, xBC[place.inner + i]);
    write_taps(state, taps);
  }
}

template <class S, int N, int Kernel, bool Separate, bool ByChance>
__global__ void __launch_bounds__(block_threads, blocks_wanted<S, N>) step_kernel(const MixerStep step) {
  constexpr int each = vector_elements<S>;  // state elements a lane moves at once
  constexpr int row_lanes = N / each < 32 ? N / each : 32;
  constexpr int row_vectors = N / each / row_lanes;  // of one lane in one row
  constexpr int rows_at_once = block_threads / row_lanes;
  constexpr int row_steps = head_dim / rows_at_once;
  __shared__ Convolved<N> shared;

  Place place(step);
  const int lane_in_row = static_cast<int>(threadIdx.x) % row_lanes;
  const int first_row = static_cast<int>(threadIdx.x) / row_lanes;
  // The batch's slots never change while kernels of its step run.
  place.slot = step.slots != nullptr ? step.slots[place.sequence] : place.sequence;
  S* const state = static_cast<S*>(step.ssm_state) +
                   ((place.slot * step.shape.num_heads + place.head) * head_dim + first_row) * N + lane_in_row * each;
  uint4 loaded[row_steps][row_vectors];
  auto load_state = [&] {
#pragma unroll
    for (int r = 0; r < row_steps; ++r) {
#pragma unroll
      for (int v = 0; v < row_vectors; ++v)
        loaded[r][v] = load_vector(state + r * rows_at_once * N + v * row_lanes * each);
    }
  };
  if (step.state_is_settled) load_state();
  wait_for_previous();
  if (!step.state_is_settled) load_state();

  const float* row = static_cast<const float*>(step.zxBCdt.data) + place.sequence * step.zxBCdt.stride;
  const float* xBC = row + place.inner;
  float* conv_state = step.conv_state + place.slot * place.conv_dim * (Kernel - 1);
  const float dt_raw = xBC[place.conv_dim + place.head] + step.dt_bias[place.head];
  const float dt = fminf(fmaxf(softplus(dt_raw), step.dt_min), step.dt_max);
  const float decay = expf(dt * -expf(step.A_log[place.head])), D = step.D[place.head];
  const float *x = shared.x, *B = shared.BC, *C = shared.BC + N;
  if constexpr (Separate) {
    const float* convolved = step.convolved + static_cast<std::int64_t>(place.sequence) * place.conv_dim;
    x = convolved + place.head * head_dim;
    B = convolved + place.channel_of_BC<N>(0, step.shape.n_groups);
    C = convolved + place.channel_of_BC<N>(N, step.shape.n_groups);
  } else {
    convolve<N, Kernel>(step, place, xBC, conv_state, shared);
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
    const float x_p = x[p], added = dt * x_p;
    float y = 0.0F;
#pragma unroll
    for (int v = 0; v < row_vectors; ++v) {
      float values[each];
      unpack_vector<S>(values, loaded[r][v]);
#pragma unroll
      for (int e = 0; e < each; ++e) {
        values[e] = values[e] * decay + added * B_own[v][e];
        y += values[e] * C_own[v][e];
      }
      uint4 packed_state;
      if constexpr (ByChance) {
        const int n = (v * row_lanes + lane_in_row) * each;
        packed_state = pack_by_chance<S>(values, random_bits(step.rounding, position, place.head, p, n, (N + 63) / 64));
      } else {
        packed_state = pack_vector<S>(values);
      }
      store_vector(state + r * rows_at_once * N + v * row_lanes * each, packed_state);
    }
#pragma unroll
    for (int distance = row_lanes / 2; distance > 0; distance /= 2) y += __shfl_xor_sync(0xFFFFFFFFU, y, distance);
    if (lane_in_row == 0) {
      y += D * x_p;
      if (step.gate) y *= silu(row[place.head * head_dim + p]);
      out[p] = y;
    }
  }
  if constexpr (!Separate) {
    __syncthreads();
    if (shared.last) shift_BC<N, Kernel>(step, place, xBC, conv_state);
  }
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

void mixer_step(const MixerStep& step, cudaStream_t stream) {
  if (step.sequences == 0) return;
  if (step.convolved != nullptr) {
    const int inner = step.shape.num_heads * head_dim;
    conv_step({.sequences = step.sequences,
               .channels = inner + 2 * step.shape.n_groups * step.shape.state_size,
               .conv_kernel = step.conv_kernel,
               .x = {static_cast<const float*>(step.zxBCdt.data) + inner, step.zxBCdt.stride},
               .weight = step.conv_weight,
               .bias = step.conv_bias,
               .slots = step.slots,
               .conv_state = step.conv_state,
               .out = step.convolved},
              stream);
  }
  if (step.state_dtype == DType::bf16) return launch<__nv_bfloat16>(step, stream);
  launch<float>(step, stream);
}

}  // namespace mamba2::cuda
