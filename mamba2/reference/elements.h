#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "mamba2/ops/ops.h"
#include "mamba2/tensor/quantized.h"
#include "mamba2/tensor/tensor.h"

/// How the reference reads and writes tensors: by rows of T (float or double), what they are held in. Sums and
/// functions are evaluated in Real, and rounded to T once where they are stored: with Real double, the error of a sum
/// in f32 does not grow with its length.
namespace mamba2::reference {

template <class T>
T* row(const Tensor& tensor, std::int64_t index) {
  return tensor.as<T>() + index * tensor.stride(0);
}

template <class T>
T* row(const Tensor& tensor, std::int64_t i, std::int64_t j) {
  return tensor.as<T>() + i * tensor.stride(0) + j * tensor.stride(1);
}

inline const std::int32_t* integers(const Tensor& tensor) {
  return tensor.as<std::int32_t>();
}

/// Reads count elements of a quantised dtype, whole blocks, as the f32 values that it defines.
inline void load_blocks(const Tensor& from, std::int64_t offset, std::int64_t count, float* to) {
  dequantize(from.dtype, from.as<std::byte>() + bytes_for(from.dtype, offset),
             std::span(to, static_cast<std::size_t>(count)));
}

/// Reads count elements of any floating or quantised dtype from element `offset` on.
template <class T>
void load(const Tensor& from, std::int64_t offset, std::int64_t count, T* to) {
  if (is_quantized(from.dtype)) {
    std::vector<float> values(static_cast<std::size_t>(count));
    load_blocks(from, offset, count, values.data());
    std::copy(values.begin(), values.end(), to);
    return;
  }
  switch (from.dtype) {
    case DType::f32:
      for (std::int64_t i = 0; i < count; ++i) to[i] = from.as<float>()[offset + i];
      return;
    case DType::bf16:
      for (std::int64_t i = 0; i < count; ++i) to[i] = to_float(from.as<bf16>()[offset + i]);
      return;
    default:
      for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(element_as_double(from, offset + i));
  }
}

template <class Real>
Real apply(Activation act, Real x) {
  switch (act) {
    case Activation::none: return x;
    case Activation::silu: return x / (Real(1) + std::exp(-x));
    case Activation::gelu: return Real(0.5) * x * (Real(1) + std::erf(x * Real(0.70710678118654752440)));
    case Activation::gelu_tanh: {
      const Real inner = Real(0.79788456080286535588) * (x + Real(0.044715) * x * x * x);  // sqrt(2 / pi)
      return Real(0.5) * x * (Real(1) + std::tanh(inner));
    }
    case Activation::relu: return x > Real(0) ? x : Real(0);
    case Activation::tanh: return std::tanh(x);
    case Activation::sigmoid: return Real(1) / (Real(1) + std::exp(-x));
  }
  return x;
}

/// Calls visit(sequence, first token, one past the last token, slot).
template <class Visit>
void for_each_sequence(const Batch& batch, Visit&& visit) {
  const std::int32_t* start = integers(batch.sequence_start);
  const std::int32_t* slots = integers(batch.slots);
  for (std::int64_t s = 0; s < batch.sequences; ++s) visit(s, start[s], start[s + 1], slots[s]);
}

}  // namespace mamba2::reference
