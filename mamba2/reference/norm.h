#pragma once

#include "mamba2/reference/elements.h"

namespace mamba2::reference {

/// 1 / sqrt(mean(x^2) + eps)
template <class T, class Real>
Real reciprocal_rms(const T* x, std::int64_t width, double eps) {
  Real sum = 0;
  for (std::int64_t i = 0; i < width; ++i) sum += static_cast<Real>(x[i]) * x[i];
  return Real(1) / std::sqrt(sum / static_cast<Real>(width) + static_cast<Real>(eps));
}

template <class T, class Real>
void rms_norm(const RmsNorm& op) {
  const std::int64_t width = op.x.size(1);
  for (std::int64_t t = 0; t < op.x.size(0); ++t) {
    const T* x = row<T>(op.x, t);
    const Real scale = reciprocal_rms<T, Real>(x, width, op.eps);
    for (std::int64_t i = 0; i < width; ++i) row<T>(op.out, t)[i] = static_cast<T>(x[i] * scale * op.weight.as<T>()[i]);
  }
}

template <class T, class Real>
void gated_rms_norm(const GatedRmsNorm& op) {
  const std::int64_t width = op.y.size(1);
  const bool gate_first = op.order == GateOrder::gate_first || op.weight.empty();
  std::vector<Real> value(static_cast<std::size_t>(width));
  for (std::int64_t t = 0; t < op.y.size(0); ++t) {
    const T* z = row<T>(op.z, t);
    T* out = row<T>(op.out, t);
    for (std::int64_t i = 0; i < width; ++i) {
      const Real y = row<T>(op.y, t)[i];
      value[static_cast<std::size_t>(i)] = gate_first ? y * apply<Real>(Activation::silu, z[i]) : y;
    }
    for (std::int64_t first = 0; first < width && !op.weight.empty(); first += op.group_size) {
      Real* group = value.data() + first;
      const Real scale = reciprocal_rms<Real, Real>(group, op.group_size, op.eps);
      for (std::int64_t i = 0; i < op.group_size; ++i) group[i] = group[i] * scale * op.weight.as<T>()[first + i];
    }
    for (std::int64_t i = 0; i < width; ++i) {
      const Real normed = value[static_cast<std::size_t>(i)];
      out[i] = static_cast<T>(gate_first ? normed : normed * apply<Real>(Activation::silu, z[i]));
    }
  }
}

template <class T, class Real>
void gated_activation(const GatedActivation& op) {
  for (std::int64_t t = 0; t < op.value.size(0); ++t)
    for (std::int64_t i = 0; i < op.value.size(1); ++i)
      row<T>(op.out, t)[i] = static_cast<T>(row<T>(op.value, t)[i] * apply<Real>(op.act, row<T>(op.gate, t)[i]));
}

template <class T, class Real>
void activate(const Activate& op) {
  for (std::int64_t t = 0; t < op.x.size(0); ++t)
    for (std::int64_t i = 0; i < op.x.size(1); ++i)
      row<T>(op.out, t)[i] = static_cast<T>(apply<Real>(op.act, row<T>(op.x, t)[i]));
}

}  // namespace mamba2::reference
