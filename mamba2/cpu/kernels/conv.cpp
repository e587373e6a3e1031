// Causal depthwise convolution over the tokens of one sequence, for a block of channels.
//
// Channels lie side by side, so a register holds one tap of `lanes` channels and every tap is a multiply-add.  The
// block's weights and the inputs before the first token are turned into rows of channels in scratch; the rows of a
// token's taps then come from there or from x, which is read again conv_kernel times from L1.
#include <utility>

#include "mamba2/cpu/kernels/math.h"
#include "mamba2/cpu/kernels/parts.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

/// (channels, taps) into (taps, width).
void turn(const float* from, std::int64_t stride, std::int64_t channels, std::int64_t taps, float* to,
          std::int64_t width) {
  for (std::int64_t c = 0; c < channels; ++c)
    for (std::int64_t k = 0; k < taps; ++k) to[k * width + c] = from[c * stride + k];
}

/// The row of inputs that lies `back` tokens before token t.
MAMBA2_INLINE const float* input_row(const ConvTask& t, const float* before, std::int64_t width, std::int64_t token) {
  return token >= 0 ? t.x + token * t.x_stride : before + (t.conv_kernel - 1 + token) * width;
}

// One token at four taps, what decoding does: the taps are taken apart and put together in registers.

template <int... I>
struct Lanes {};
template <int... I>
Lanes<I...> lanes_of(std::integer_sequence<int, I...>);
using AllLanes = decltype(lanes_of(std::make_integer_sequence<int, lanes>()));

/// Elements `first`, first + 2, ... of a and b end to end.
template <int first, int... I>
MAMBA2_INLINE Floats every_second(Floats a, Floats b, Lanes<I...>) {
  return __builtin_shufflevector(a, b, (2 * I + first)...);
}

/// Elements tap, tap + 3, ... of a, b and c end to end.
template <int tap, int... I>
MAMBA2_INLINE Floats every_third(Floats a, Floats b, Floats c, Lanes<I...>) {
  const Floats ab = __builtin_shufflevector(a, b, (3 * I + tap < 2 * lanes ? 3 * I + tap : 0)...);
  return __builtin_shufflevector(ab, c, (3 * I + tap < 2 * lanes ? I : 3 * I + tap - lanes)...);
}

/// Register `part` of a[0], b[0], c[0], a[1], ... end to end.
template <int part, int... I>
MAMBA2_INLINE Floats woven(Floats a, Floats b, Floats c, Lanes<I...>) {
  const Floats ab = __builtin_shufflevector(a, b, ((part * lanes + I) / 3 + (part * lanes + I) % 3 % 2 * lanes)...);
  return __builtin_shufflevector(ab, c, ((part * lanes + I) % 3 < 2 ? I : (part * lanes + I) / 3 + lanes)...);
}

template <Activation act>
MAMBA2_INLINE void one_token_block(const float* x, const float* weight, const float* bias, const float* before,
                                   float* state, float* out) {
  constexpr AllLanes all;
  Floats w[4], low[2], high[2];
  for (int i = 0; i < 2; ++i) {
    const Floats a = load(weight + 2 * i * lanes), b = load(weight + (2 * i + 1) * lanes);
    low[i] = every_second<0>(a, b, all);
    high[i] = every_second<1>(a, b, all);
  }
  w[0] = every_second<0>(low[0], low[1], all);
  w[1] = every_second<0>(high[0], high[1], all);
  w[2] = every_second<1>(low[0], low[1], all);
  w[3] = every_second<1>(high[0], high[1], all);
  const Floats a = load(before), b = load(before + lanes), c = load(before + 2 * lanes), last = load(x);
  const Floats first = every_third<0>(a, b, c, all), second = every_third<1>(a, b, c, all),
               third = every_third<2>(a, b, c, all);
  const Floats sum = fma(w[3], last, fma(w[2], third, fma(w[1], second, fma(w[0], first, load(bias)))));
  store(out, activate<act>(sum));
  if (state == nullptr) return;
  store(state, woven<0>(second, third, last, all));
  store(state + lanes, woven<1>(second, third, last, all));
  store(state + 2 * lanes, woven<2>(second, third, last, all));
}

template <Activation act>
void one_token(const ConvTask& t) {
  std::int64_t c = 0;
  for (; c + lanes <= t.channels; c += lanes)
    one_token_block<act>(t.x + c, t.weight + 4 * c, t.bias + c, t.before + 3 * c,
                         t.state == nullptr ? nullptr : t.state + 3 * c, t.out + c);
  const std::int64_t rest = t.channels - c;
  if (rest == 0) return;
  float x[lanes] = {}, weight[4 * lanes] = {}, bias[lanes] = {}, context[3 * lanes] = {}, out[lanes];
  for (std::int64_t i = 0; i < rest; ++i) {
    x[i] = t.x[c + i];
    bias[i] = t.bias[c + i];
    for (std::int64_t k = 0; k < 4; ++k) weight[4 * i + k] = t.weight[4 * (c + i) + k];
    for (std::int64_t k = 0; k < 3; ++k) context[3 * i + k] = t.before[3 * (c + i) + k];
  }
  one_token_block<act>(x, weight, bias, context, context, out);
  for (std::int64_t i = 0; i < rest; ++i) {
    t.out[c + i] = out[i];
    for (std::int64_t k = 0; k < 3 && t.state != nullptr; ++k) t.state[3 * (c + i) + k] = context[3 * i + k];
  }
}

// The rows of a block of channels are short pieces far apart, which the processor does not fetch ahead by itself.  Past
// the end of memory this does nothing.
constexpr std::int64_t rows_ahead = 4;

template <Activation act>
void convolve(const ConvTask& t, const float* weights, const float* bias, const float* before, std::int64_t width) {
  const std::int64_t whole = t.channels / lanes * lanes, rest = t.channels - whole;
  for (std::int64_t token = 0; token < t.tokens; ++token) {
    float* const out = t.out + token * t.out_stride;
    const std::int64_t first = token - (t.conv_kernel - 1);
    const float* const next = t.x + (token + rows_ahead) * t.x_stride;
    for (std::int64_t c = 0; c < whole; c += lanes) {
      __builtin_prefetch(next + c);
      Floats sum = load(bias + c);
      for (std::int64_t k = 0; k < t.conv_kernel; ++k)
        sum = fma(load(weights + k * width + c), load(input_row(t, before, width, first + k) + c), sum);
      store(out + c, activate<act>(sum));
    }
    if (rest == 0) continue;
    Floats sum = load_some(bias + whole, rest);
    for (std::int64_t k = 0; k < t.conv_kernel; ++k)
      sum = fma(load_some(weights + k * width + whole, rest),
                load_some(input_row(t, before, width, first + k) + whole, rest), sum);
    store_some(out + whole, activate<act>(sum), rest);
  }
}

/// The last conv_kernel - 1 inputs, where the rows of those before the first token are not turned.
void keep_inputs(const ConvTask& t) {
  const std::int64_t context = t.conv_kernel - 1;
  for (std::int64_t c = 0; c < t.channels; ++c)
    for (std::int64_t k = 0; k < context; ++k) {
      const std::int64_t token = t.tokens - context + k;  // rises with k: `state` may be `before`
      t.state[c * t.state_stride + k] =
          token >= 0 ? t.x[token * t.x_stride + c] : t.before[c * t.state_stride + context + token];
    }
}

void conv(const ConvTask& t) {
  if (t.tokens == 0) return;
  if (t.out == nullptr) return keep_inputs(t);
  if (t.tokens == 1 && t.conv_kernel == 4 && t.weight_stride == 4 && t.state_stride == 3 && t.bias != nullptr)
    return with_activation(t.act, [&]<Activation act>() { one_token<act>(t); });
  const std::int64_t width = t.channels;
  float* const weights = t.scratch;
  float* const before = weights + t.conv_kernel * width;
  float* const bias = before + (t.conv_kernel - 1) * width;
  turn(t.weight, t.weight_stride, t.channels, t.conv_kernel, weights, width);
  turn(t.before, t.state_stride, t.channels, t.conv_kernel - 1, before, width);
  for (std::int64_t c = 0; c < t.channels; ++c) bias[c] = t.bias == nullptr ? 0.0F : t.bias[c];
  with_activation(t.act, [&]<Activation act>() { convolve<act>(t, weights, bias, before, width); });
  if (t.state == nullptr) return;
  for (std::int64_t k = 0; k < t.conv_kernel - 1; ++k) {
    const float* const from = input_row(t, before, width, t.tokens - (t.conv_kernel - 1) + k);
    for (std::int64_t c = 0; c < t.channels; ++c) t.state[c * t.state_stride + k] = from[c];
  }
}

}  // namespace

void add_conv(Kernels& kernels) {
  kernels.conv = conv;
}

}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
