#pragma once

#include "mamba2/cuda/activation.h"
#include "mamba2/cuda/element.cuh"

namespace mamba2::cuda {

__device__ __forceinline__ float activated(float x, Activation activation) {
  constexpr float sqrt_half = 0.70710678118654752440F, sqrt_2_over_pi = 0.79788456080286535588F;
  switch (activation) {
    case Activation::none: return x;
    case Activation::silu: return silu(x);
    case Activation::gelu: return 0.5F * x * (1.0F + erff(x * sqrt_half));
    case Activation::gelu_tanh: return 0.5F * x * (1.0F + tanhf(sqrt_2_over_pi * (x + 0.044715F * x * x * x)));
    case Activation::relu: return fmaxf(x, 0.0F);
    case Activation::tanh: return tanhf(x);
    case Activation::sigmoid: return sigmoid(x);
  }
  return x;
}

/// softplus(x) = log(1 + e^x), without overflow.
__device__ __forceinline__ float softplus(float x) {
  return fmaxf(x, 0.0F) + log1pf(expf(-fabsf(x)));
}

}  // namespace mamba2::cuda
