#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "mamba2/ops/ops.h"
#include "mamba2/tensor/quantized.h"
#include "mamba2/tensor/tensor.h"

/// How the reference reads and writes tensors: by rows, in the scalar T that it computes in (float or double).
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
  for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(element_as_double(from, offset + i));
}

inline void load(const Tensor& from, std::int64_t offset, std::int64_t count, float* to) {
  if (is_quantized(from.dtype)) return load_blocks(from, offset, count, to);
  switch (from.dtype) {
    case DType::f32:
      for (std::int64_t i = 0; i < count; ++i) to[i] = from.as<float>()[offset + i];
      return;
    case DType::bf16:
      for (std::int64_t i = 0; i < count; ++i) to[i] = to_float(from.as<bf16>()[offset + i]);
      return;
    default:
      for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(element_as_double(from, offset + i));
  }
}

template <class T>
T apply(Activation act, T x) {
  switch (act) {
    case Activation::none: return x;
    case Activation::silu: return x / (T(1) + std::exp(-x));
    case Activation::gelu: return T(0.5) * x * (T(1) + std::erf(x * T(0.70710678118654752440)));
    case Activation::gelu_tanh: {
      const T inner = T(0.79788456080286535588) * (x + T(0.044715) * x * x * x);  // sqrt(2 / pi)
      return T(0.5) * x * (T(1) + std::tanh(inner));
    }
    case Activation::relu: return x > T(0) ? x : T(0);
    case Activation::tanh: return std::tanh(x);
    case Activation::sigmoid: return T(1) / (T(1) + std::exp(-x));
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
