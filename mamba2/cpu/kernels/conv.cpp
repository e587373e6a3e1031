// Causal depthwise convolution over the tokens of one sequence, for a block of channels.
//
// Channels lie side by side, so a register holds one tap of `lanes` channels and every tap is a multiply-add.  The
// block's weights and the inputs before the first token are turned into rows of channels in scratch; the rows of a
// token's taps then come from there or from x, which is read again conv_kernel times from L1.
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

template <Activation act>
void convolve(const ConvTask& t, const float* weights, const float* bias, const float* before, std::int64_t width) {
  const std::int64_t whole = t.channels / lanes * lanes, rest = t.channels - whole;
  for (std::int64_t token = 0; token < t.tokens; ++token) {
    float* const out = t.out + token * t.out_stride;
    const std::int64_t first = token - (t.conv_kernel - 1);
    for (std::int64_t c = 0; c < whole; c += lanes) {
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

void conv(const ConvTask& t) {
  if (t.tokens == 0) return;
  const std::int64_t width = t.channels;
  float* const weights = t.scratch;
  float* const before = weights + t.conv_kernel * width;
  float* const bias = before + (t.conv_kernel - 1) * width;
  turn(t.weight, t.weight_stride, t.channels, t.conv_kernel, weights, width);
  turn(t.state, t.state_stride, t.channels, t.conv_kernel - 1, before, width);
  for (std::int64_t c = 0; c < t.channels; ++c) bias[c] = t.bias == nullptr ? 0.0F : t.bias[c];
  with_activation(t.act, [&]<Activation act>() { convolve<act>(t, weights, bias, before, width); });
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
