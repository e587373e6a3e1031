// Depthwise causal convolution: bound by memory, one read and one write of a row each.
//
// Parallel: runs of tokens x channels.  A thread owns four neighbouring channels (more take too many registers)
// and walks run_tokens tokens, so that neighbouring threads read neighbouring channels of a row. In registers: the
// weights, and the last 3 inputs as a window that shifts by one a token; so each input is read once, but for 3 rows
// before a run, which its neighbour also reads (mostly from L2).  Rows are loaded rows_ahead at a time, while those
// before are worked on, or a thread would wait for each. Ragged: a run looks up the sequence of its first token and
// refills the window from the state where the next begins. Other kernel widths, and rows that are not aligned, keep no
// window and read each tap again; that is the general form. The states are replaced by a second, small launch: another
// block may still read the old ones as left context.
#include "mamba2/cuda/activation.cuh"
#include "mamba2/cuda/batch.cuh"
#include "mamba2/cuda/causal_conv.h"
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/grid.cuh"

namespace mamba2::cuda {
namespace {

constexpr int block_threads = 128;
constexpr int max_window = 4;  // conv_kernel of every published Mamba-2 model
constexpr int rows_ahead = 8;
constexpr int channels_each = 4;
constexpr int long_run = 64, short_run = 16;  // tokens: few rows read twice, or enough blocks for a short prompt
constexpr std::int64_t long_run_tokens = 4096;

__host__ __device__ constexpr int run_tokens_of(std::int64_t tokens) {
  return tokens >= long_run_tokens ? long_run : short_run;
}

/// A thread's channels of a row.
template <class T>
using Channels = std::conditional_t<sizeof(T) == 4, uint4, uint2>;
template <class T>
__device__ __forceinline__ Channels<T> load_channels(const T* from) {
  return *reinterpret_cast<const Channels<T>*>(from);
}
template <class T>
__device__ __forceinline__ void unpack_channels(float (&to)[channels_each], const Channels<T>& from) {
  if constexpr (sizeof(T) == 4) {
    unpack_vector<T>(to, from);
  } else {
    const float2 first = unpacked(from.x, T()), second = unpacked(from.y, T());
    to[0] = first.x, to[1] = first.y, to[2] = second.x, to[3] = second.y;
  }
}

template <class T, class S, class Out, int Kernel, bool Silu>
__global__ void __launch_bounds__(block_threads) conv_kernel(const CausalConv conv) {
  const int c = (static_cast<int>(blockIdx.x) * block_threads + static_cast<int>(threadIdx.x)) * channels_each;
  if (c >= conv.channels) return;
  const int run_tokens = run_tokens_of(conv.batch.tokens);
  const std::int64_t first = grid_row() * run_tokens;
  if (first >= conv.batch.tokens) return;
  const std::int64_t last = min(first + run_tokens, conv.batch.tokens);
  const T* x = static_cast<const T*>(conv.x.data) + c;
  Out* out = static_cast<Out*>(conv.out.data) + c;
  float weight[Kernel][channels_each], bias[channels_each];
#pragma unroll
  for (int i = 0; i < channels_each; ++i) {
    bias[i] = conv.bias != nullptr ? conv.bias[c + i] : 0.0F;
#pragma unroll
    for (int k = 0; k < Kernel; ++k) weight[k][i] = conv.weight[(c + i) * Kernel + k];
  }
  float window[Kernel]
              [channels_each];  // [k]: the input that weight k meets at the next token; [Kernel - 1] is that token
  wait_for_previous();
  int sequence = sequence_of(conv.batch, first);
  auto refill = [&](std::int64_t token) {
    const std::int64_t start = conv.batch.sequence_start[sequence];
    const S* state =
        static_cast<const S*>(conv.conv_state) + (slot_of(conv.batch, sequence) * conv.channels + c) * (Kernel - 1);
#pragma unroll
    for (int k = 0; k < Kernel - 1; ++k) {
      const std::int64_t at = token - (Kernel - 1) + k;
      if (at >= start) {
        unpack_channels<T>(window[k], load_channels<T>(x + at * conv.x.stride));
      } else {
#pragma unroll
        for (int i = 0; i < channels_each; ++i)
          window[k][i] = as_float(state[i * (Kernel - 1) + (at - start + Kernel - 1)]);
      }
    }
  };
  refill(first);
  for (std::int64_t t = first; t < last;) {
    const std::int64_t stop = min(last, static_cast<std::int64_t>(conv.batch.sequence_start[sequence + 1]));
    Channels<T> ahead[rows_ahead];
    auto load = [&](std::int64_t token) {
#pragma unroll
      for (int r = 0; r < rows_ahead; ++r)
        ahead[r] = token + r < stop ? load_channels<T>(x + (token + r) * conv.x.stride) : Channels<T>{};
    };
    load(t);
    for (; t < stop; t += rows_ahead) {
      Channels<T> rows[rows_ahead];
#pragma unroll
      for (int r = 0; r < rows_ahead; ++r) rows[r] = ahead[r];
      load(t + rows_ahead);
#pragma unroll
      for (int r = 0; r < rows_ahead; ++r) {
        unpack_channels<T>(window[Kernel - 1], rows[r]);
        float sum[channels_each];
#pragma unroll
        for (int i = 0; i < channels_each; ++i) {
          sum[i] = bias[i];
#pragma unroll
          for (int k = 0; k < Kernel; ++k) sum[i] += weight[k][i] * window[k][i];
          sum[i] = Silu ? silu(sum[i]) : activated(sum[i], conv.activation);
#pragma unroll
          for (int k = 0; k + 1 < Kernel; ++k) window[k][i] = window[k + 1][i];
        }
        if (t + r < stop) store_run(out + (t + r) * conv.out.stride, sum);
      }
    }
    t = stop;
    if (t == last) break;
    while (conv.batch.sequence_start[sequence + 1] <= t) ++sequence;
    refill(t);
  }
}

template <class T, class S, class Out>
__global__ void __launch_bounds__(block_threads) general_conv_kernel(const CausalConv conv) {
  const int c = static_cast<int>(blockIdx.x) * block_threads + static_cast<int>(threadIdx.x);
  if (c >= conv.channels) return;
  const int run_tokens = run_tokens_of(conv.batch.tokens);
  const std::int64_t first = grid_row() * run_tokens;
  if (first >= conv.batch.tokens) return;
  const std::int64_t last = min(first + run_tokens, conv.batch.tokens);
  const T* x = static_cast<const T*>(conv.x.data) + c;
  const int context = conv.conv_kernel - 1;
  wait_for_previous();
  int sequence = sequence_of(conv.batch, first);
  for (std::int64_t t = first; t < last; ++t) {
    while (conv.batch.sequence_start[sequence + 1] <= t) ++sequence;
    const std::int64_t start = conv.batch.sequence_start[sequence];
    const S* state =
        static_cast<const S*>(conv.conv_state) + (slot_of(conv.batch, sequence) * conv.channels + c) * context;
    float sum = conv.bias != nullptr ? conv.bias[c] : 0.0F;
    for (int k = 0; k <= context; ++k) {
      const std::int64_t at = t - context + k;
      const float input = at >= start ? as_float(x[at * conv.x.stride]) : as_float(state[at - start + context]);
      sum += conv.weight[static_cast<std::int64_t>(c) * conv.conv_kernel + k] * input;
    }
    static_cast<Out*>(conv.out.data)[t * conv.out.stride + c] = rounded<Out>(activated(sum, conv.activation));
  }
}

template <class T, class S>
__global__ void __launch_bounds__(block_threads) replace_states_kernel(const CausalConv conv) {
  const int c = static_cast<int>(blockIdx.x) * block_threads + static_cast<int>(threadIdx.x);
  if (c >= conv.channels) return;
  const int sequence = static_cast<int>(grid_row());
  if (sequence >= conv.batch.sequences) return;
  const int context = conv.conv_kernel - 1;
  wait_for_previous();
  const std::int64_t start = conv.batch.sequence_start[sequence], end = conv.batch.sequence_start[sequence + 1];
  const std::int64_t tokens = end - start;
  if (tokens == 0) return;
  S* state = static_cast<S*>(conv.conv_state) + (slot_of(conv.batch, sequence) * conv.channels + c) * context;
  const T* x = static_cast<const T*>(conv.x.data) + c;
  // ascending: place k takes what a later place holds, which is still the old value
  for (int k = 0; k < context; ++k) {
    const std::int64_t at = end - context + k;
    state[k] = at >= start ? rounded<S>(as_float(x[at * conv.x.stride])) : state[k + tokens];
  }
}

/// Whether a thread's channels of a row can be moved at once.
bool aligned(const void* data, std::int64_t stride, DType dtype) {
  return reinterpret_cast<std::uintptr_t>(data) % (channels_each * element_size(dtype)) == 0 &&
         stride % channels_each == 0;
}

template <class T, class S, class Out>
void launch(const CausalConv& conv, cudaStream_t stream) {
  auto start = [&](void (*kernel)(const CausalConv), int channels, std::int64_t rows, const char* name) {
    const int threads = (conv.channels + channels - 1) / channels;
    launch_early(kernel, conv, grid_of_rows((threads + block_threads - 1) / block_threads, rows), block_threads, name,
                 stream);
  };
  const int run_tokens = run_tokens_of(conv.batch.tokens);
  const std::int64_t runs = (conv.batch.tokens + run_tokens - 1) / run_tokens;
  if (runs > 0) {
    const bool vectors = conv.conv_kernel == max_window && conv.channels % channels_each == 0 &&
                         aligned(conv.x.data, conv.x.stride, conv.dtype) &&
                         aligned(conv.out.data, conv.out.stride, conv.out_dtype);
    if (vectors && conv.activation == Activation::silu) {
      start(conv_kernel<T, S, Out, max_window, true>, channels_each, runs, "causal_conv");
    } else if (vectors) {
      start(conv_kernel<T, S, Out, max_window, false>, channels_each, runs, "causal_conv");
    } else {
      start(general_conv_kernel<T, S, Out>, 1, runs, "causal_conv");
    }
  }
  if (conv.batch.sequences > 0 && conv.conv_kernel > 1) {
    start(replace_states_kernel<T, S>, 1, conv.batch.sequences, "causal_conv (states)");
  }
}

}  // namespace

void causal_conv(const CausalConv& conv, cudaStream_t stream) {
  if (conv.out_dtype != conv.dtype) {
    if (conv.dtype != DType::f32 || conv.state_dtype != DType::f32) fail_dtype("causal_conv", conv.dtype, "f32");
    if (conv.out_dtype == DType::bf16) return launch<float, float, __nv_bfloat16>(conv, stream);
    if (conv.out_dtype == DType::f16) return launch<float, float, __half>(conv, stream);
    fail_dtype("causal_conv out", conv.out_dtype, "f16 or bf16");
  }
  with_element_type(conv.dtype, "causal_conv", [&](auto element) {
    with_element_type(conv.state_dtype, "causal_conv state", [&](auto state) {
      using T = typename decltype(element)::type;
      launch<T, typename decltype(state)::type, T>(conv, stream);
    });
  });
}

}  // namespace mamba2::cuda
