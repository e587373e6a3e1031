#pragma once

#include <math.h>

#include "mamba2/cpu/kernels/vec.h"
#include "mamba2/ops/ops.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

/// e^x within 2 units in the last place; 0 and infinity where it under- and overflows; NaN stays NaN.
/// x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor polynomial of degree 7 (remainder below 2^-27), then 2^n in
/// two factors so that subnormal results come out.
MAMBA2_INLINE Floats exp(Floats x) {
  const Floats bounded = maximum(broadcast(-104.0F), minimum(broadcast(89.0F), x));
  const Floats to_integer = broadcast(0x1.8p23F);
  const Floats n = fma(bounded, broadcast(0x1.715476p0F), to_integer) - to_integer;
  // ln 2 in two parts, the first with trailing zeros so that n times it is exact
  const Floats r = fma(n, broadcast(-0x1.7f7d1cp-20F), fma(n, broadcast(-0x1.62e400p-1F), bounded));
  Floats p = broadcast(1.0F / 5040.0F);
  p = fma(p, r, broadcast(1.0F / 720.0F));
  p = fma(p, r, broadcast(1.0F / 120.0F));
  p = fma(p, r, broadcast(1.0F / 24.0F));
  p = fma(p, r, broadcast(1.0F / 6.0F));
  p = fma(p, r, broadcast(0.5F));
  p = fma(p * r, r, r) + 1.0F;
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, n);
#else
  const Ints exponent = __builtin_convertvector(n, Ints);
  const Ints half = exponent >> 1;
  const Floats first = (Floats)((half + 127) << 23), second = (Floats)((exponent - half + 127) << 23);
  return p * first * second;
#endif
}

MAMBA2_INLINE Floats absolute(Floats x) {
  return (Floats)((Ints)x & 0x7FFFFFFF);
}
MAMBA2_INLINE Floats with_sign_of(Floats magnitude, Floats x) {
  return (Floats)(((Ints)magnitude & 0x7FFFFFFF) | ((Ints)x & ~0x7FFFFFFF));
}

MAMBA2_INLINE Floats sigmoid(Floats x) {
  return 1.0F / (1.0F + exp(-x));
}

MAMBA2_INLINE Floats silu(Floats x) {
  return x / (1.0F + exp(-x));
}

/// ln(1 + e^x) = max(x, 0) + ln(1 + e), e = e^-|x|.  ln(1 + e) = 2 artanh(s), s = e / (2 + e) <= 1/3, by its series up
/// to s^15 (remainder below 2^-29 of the sum).
MAMBA2_INLINE Floats softplus(Floats x) {
  const Floats e = exp(-absolute(x)), s = e / (2.0F + e), square = s * s;
  Floats p = broadcast(1.0F / 15.0F);
  p = fma(p, square, broadcast(1.0F / 13.0F));
  p = fma(p, square, broadcast(1.0F / 11.0F));
  p = fma(p, square, broadcast(1.0F / 9.0F));
  p = fma(p, square, broadcast(1.0F / 7.0F));
  p = fma(p, square, broadcast(1.0F / 5.0F));
  p = fma(p, square, broadcast(1.0F / 3.0F));
  return maximum(broadcast(0.0F), x) + 2.0F * fma(p * square, s, s);
}

/// Within 4 units in the last place.  Near 0 an odd polynomial, whose relative error stays small (minimax on
/// [0, 0.625], Moshier's Cephes, tanhf.c); elsewhere (1 - e^-2|x|) / (1 + e^-2|x|).
MAMBA2_INLINE Floats tanh(Floats x) {
  const Floats magnitude = absolute(x), square = x * x;
  Floats p = broadcast(-5.70498872745e-3F);
  p = fma(p, square, broadcast(2.06390887954e-2F));
  p = fma(p, square, broadcast(-5.37397155531e-2F));
  p = fma(p, square, broadcast(1.33314422036e-1F));
  p = fma(p, square, broadcast(-3.33332819422e-1F));
  const Floats near_zero = fma(p * square, x, x);
  const Floats e = exp(-2.0F * magnitude);
  const Floats far = with_sign_of((1.0F - e) / (1.0F + e), x);
  return select(magnitude < broadcast(0.625F), near_zero, far);
}

MAMBA2_INLINE Floats gelu(Floats x) {
  Floats result;
  for (int i = 0; i < lanes; ++i) result[i] = 0.5F * x[i] * (1.0F + erff(x[i] * 0x1.6a09e6p-1F));
  return result;
}

MAMBA2_INLINE Floats gelu_tanh(Floats x) {
  const Floats inner = 0x1.988454p-1F * fma(0.044715F * x * x, x, x);
  return 0.5F * x * (1.0F + tanh(inner));
}

template <Activation act>
MAMBA2_INLINE Floats activate(Floats x) {
  if constexpr (act == Activation::silu) return silu(x);
  if constexpr (act == Activation::gelu) return gelu(x);
  if constexpr (act == Activation::gelu_tanh) return gelu_tanh(x);
  if constexpr (act == Activation::relu) return maximum(broadcast(0.0F), x);
  if constexpr (act == Activation::tanh) return tanh(x);
  if constexpr (act == Activation::sigmoid) return sigmoid(x);
  if constexpr (act == Activation::none) return x;
}

/// Calls body.template operator()<act>().
template <class Body>
MAMBA2_INLINE void with_activation(Activation act, Body body) {
  switch (act) {
    case Activation::none: body.template operator()<Activation::none>(); break;
    case Activation::silu: body.template operator()<Activation::silu>(); break;
    case Activation::gelu: body.template operator()<Activation::gelu>(); break;
    case Activation::gelu_tanh: body.template operator()<Activation::gelu_tanh>(); break;
    case Activation::relu: body.template operator()<Activation::relu>(); break;
    case Activation::tanh: body.template operator()<Activation::tanh>(); break;
    case Activation::sigmoid: body.template operator()<Activation::sigmoid>(); break;
  }
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
