// One decode step of the mixer, bound by the state's traffic: every element read once and written once.
//
// Parallel: sequences x heads, a block each; a warp takes rows of the state (a channel each), neighbouring lanes 16
// bytes of a row each, so that a row's product with C is a reduction over state_size / 4 (f32) or / 8 (bf16) lanes.
// Order: the state's loads are started first, if they may before the kernel ahead is done, and fly while the block does
// the convolution step for its own 64 channels and, again in every block, for its group's B and C: 2 * state_size
// channels of 4 taps against 64 rows of state. conv_state: a block shifts its own channels.  B's and C's places are
// read by all blocks of a sequence, so the last one to have read them (a counter a sequence) shifts them; nobody waits.
// A bf16 state may be rounded by chance: one Philox block of random bits for 8 elements.
#include "mamba2/cuda/activation.cuh"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/mixer_step.h"

namespace mamba2::cuda {
namespace {

constexpr int head_dim = 64;
constexpr int block_threads = 256;

/// Salmon et al. 2011: ten rounds on four words.
__device__ uint4 philox(uint2 key, uint4 counter) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned high0 = __umulhi(0xD2511F53U, counter.x), low0 = 0xD2511F53U * counter.x;
    const unsigned high1 = __umulhi(0xCD9E8D57U, counter.z), low1 = 0xCD9E8D57U * counter.z;
    counter = {high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0};
    key.x += 0x9E3779B9U;
    key.y += 0xBB67AE85U;
  }
  return counter;
}

/// A float to bf16's upper half, rounded up with a probability that is the part cut off; infinities and NaN stay.
__device__ __forceinline__ unsigned rounded_by_chance(float value, unsigned random_16_bits) {
  const unsigned bits = __float_as_uint(value);
  return ((bits & 0x7F800000U) == 0x7F800000U ? bits : bits + random_16_bits) >> 16;
}

template <class S>
__device__ __forceinline__ uint4 pack_state(const float (&state)[vector_elements<S>],
                                            const StochasticRounding& rounding, std::int64_t place) {
  if constexpr (sizeof(S) == 2) {
    if (rounding.seed != nullptr) {
      const std::uint64_t seed = *rounding.seed, step = *rounding.step, index = static_cast<std::uint64_t>(place) / 8;
      const uint4 random = philox({static_cast<unsigned>(seed), static_cast<unsigned>(seed >> 32)},
                                  {static_cast<unsigned>(index), static_cast<unsigned>(index >> 32),
                                   static_cast<unsigned>(step), static_cast<unsigned>(step >> 32)});
      const unsigned words[4] = {random.x, random.y, random.z, random.w};
      unsigned pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        pairs[i] = rounded_by_chance(state[2 * i], words[i] & 0xFFFFU) |
                   rounded_by_chance(state[2 * i + 1], words[i] >> 16) << 16;
      }
      return {pairs[0], pairs[1], pairs[2], pairs[3]};
    }
  }
  return pack_vector<S>(state);
}

/// The convolution's output at one channel; taps receives its inputs, oldest first, the new one last.
template <class T, int Kernel>
__device__ __forceinline__ float conv_channel(const MixerStep& step, const T* row, const T* conv_state, int channel,
                                              float (&taps)[Kernel]) {
#pragma unroll
  for (int k = 0; k + 1 < Kernel; ++k) taps[k] = as_float(conv_state[channel * (Kernel - 1) + k]);
  taps[Kernel - 1] = as_float(row[channel]);
  float sum = step.conv_bias != nullptr ? step.conv_bias[channel] : 0.0F;
#pragma unroll
  for (int k = 0; k < Kernel; ++k) sum += step.conv_weight[channel * Kernel + k] * taps[k];
  return as_float(rounded<T>(silu(sum)));
}

template <class T, int Kernel>
__device__ __forceinline__ void shift_channel(T* conv_state, int channel, const float (&taps)[Kernel]) {
#pragma unroll
  for (int k = 0; k + 1 < Kernel; ++k) conv_state[channel * (Kernel - 1) + k] = rounded<T>(taps[k + 1]);
}

template <class T, class S, int N, int Kernel>
__global__ void __launch_bounds__(block_threads) step_kernel(const MixerStep step) {
  constexpr int each = vector_elements<S>;  // state elements a lane moves at once
  constexpr int row_lanes = N / each < 32 ? N / each : 32;
  constexpr int row_vectors = N / each / row_lanes;  // of one lane in one row
  constexpr int rows_at_once = block_threads / row_lanes;
  constexpr int row_steps = head_dim / rows_at_once;
  constexpr int shared_channels = 2 * N;  // B and C
  __shared__ float BC[shared_channels], x[head_dim];
  __shared__ bool last;

  const int head = static_cast<int>(blockIdx.x), sequence = static_cast<int>(blockIdx.y);
  const SsdShape& shape = step.shape;
  const int inner = shape.num_heads * head_dim;
  const int group = head / (shape.num_heads / shape.n_groups);
  const int conv_dim = inner + 2 * shape.n_groups * N;
  const std::int64_t slot = step.slots != nullptr ? step.slots[sequence] : sequence;
  const T* row = static_cast<const T*>(step.zxBCdt.data) + sequence * step.zxBCdt.stride;
  const T* xBC = row + inner;
  T* conv_state = static_cast<T*>(step.conv_state) + slot * conv_dim * (Kernel - 1);

  const int lane_in_row = static_cast<int>(threadIdx.x) % row_lanes;
  const int first_row = static_cast<int>(threadIdx.x) / row_lanes;
  const std::int64_t head_place = (slot * shape.num_heads + head) * head_dim * N;
  S* state = static_cast<S*>(step.ssm_state);
  auto place = [&](int r, int v) {
    return head_place + (first_row + r * rows_at_once) * N + (v * row_lanes + lane_in_row) * each;
  };
  uint4 loaded[row_steps][row_vectors];
  auto load_state = [&] {
#pragma unroll
    for (int r = 0; r < row_steps; ++r) {
#pragma unroll
      for (int v = 0; v < row_vectors; ++v) loaded[r][v] = load_vector(state + place(r, v));
    }
  };
  if (step.state_is_settled) load_state();
  wait_for_previous();
  if (!step.state_is_settled) load_state();

  const int tid = static_cast<int>(threadIdx.x);
  auto shared_channel = [&](int i) { return inner + (i < N ? 0 : (shape.n_groups - 1) * N) + group * N + i; };
  if (tid < head_dim) {
    float taps[Kernel];
    x[tid] = conv_channel<T, Kernel>(step, xBC, conv_state, head * head_dim + tid, taps);
    shift_channel<T, Kernel>(conv_state, head * head_dim + tid, taps);
  }
  for (int i = tid; i < shared_channels; i += block_threads) {
    float taps[Kernel];
    BC[i] = conv_channel<T, Kernel>(step, xBC, conv_state, shared_channel(i), taps);
  }
  __syncthreads();
  if (tid == 0) {
    __threadfence();  // this block's reads come before its arrival
    last = atomicInc(step.arrivals + sequence, gridDim.x - 1) == gridDim.x - 1;
  }

  const float dt =
      fminf(fmaxf(softplus(as_float(xBC[conv_dim + head]) + step.dt_bias[head]), step.dt_min), step.dt_max);
  const float decay = expf(dt * -expf(step.A_log[head])), D = step.D[head];
  T* out = static_cast<T*>(step.out.data) + sequence * step.out.stride + head * head_dim;
#pragma unroll
  for (int r = 0; r < row_steps; ++r) {
    const int p = first_row + r * rows_at_once;
    const float x_p = x[p], added = dt * x_p;
    float y = 0.0F;
#pragma unroll
    for (int v = 0; v < row_vectors; ++v) {
      float values[each];
      unpack_vector<S>(values, loaded[r][v]);
      const int n = (v * row_lanes + lane_in_row) * each;
#pragma unroll
      for (int e = 0; e < each; ++e) {
        values[e] = values[e] * decay + added * BC[n + e];
        y += values[e] * BC[N + n + e];
      }
      store_vector(state + place(r, v), pack_state<S>(values, step.rounding, place(r, v)));
    }
#pragma unroll
    for (int distance = row_lanes / 2; distance > 0; distance /= 2) y += __shfl_xor_sync(0xFFFFFFFFU, y, distance);
    if (lane_in_row == 0) {
      y += D * x_p;
      if (step.gate) y *= silu(as_float(row[head * head_dim + p]));
      out[p] = rounded<T>(y);
    }
  }

  __syncthreads();
  if (!last) return;
  for (int i = tid; i < 2 * shape.n_groups * N; i += block_threads) {
    float taps[Kernel];
    (void)conv_channel<T, Kernel>(step, xBC, conv_state, inner + i, taps);
    shift_channel<T, Kernel>(conv_state, inner + i, taps);
  }
}

template <class T, class S>
void launch(const MixerStep& step, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(step.shape.num_heads), static_cast<unsigned>(step.sequences));
  auto with_kernel = [&](auto state_size) {
    constexpr int N = decltype(state_size)::value;
    auto* kernel = step_kernel<T, S, N, 4>;
    if (step.conv_kernel == 2) kernel = step_kernel<T, S, N, 2>;
    if (step.conv_kernel == 3) kernel = step_kernel<T, S, N, 3>;
    launch_early<const MixerStep>(kernel, step, grid, block_threads, "mixer_step", stream);
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
  with_element_type(step.dtype, "mixer_step", [&](auto element) {
    using T = typename decltype(element)::type;
    if (step.state_dtype == DType::bf16) return launch<T, __nv_bfloat16>(step, stream);
    launch<T, float>(step, stream);
  });
}

}  // namespace mamba2::cuda
