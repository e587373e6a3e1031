#pragma once

#include <algorithm>
#include <limits>

#include "mamba2/reference/elements.h"

namespace mamba2::reference {

/// theta of the rotation for a sequence of that many tokens (dynamic NTK scaling raises it past the trained length).
inline double rope_theta(const RopeParameters& parameters, std::int64_t length) {
  if (parameters.scaling != RopeScaling::dynamic || length <= parameters.max_position_embeddings)
    return parameters.theta;
  const auto dim = static_cast<double>(parameters.rotary_dim);
  const double stretch = static_cast<double>(length) / static_cast<double>(parameters.max_position_embeddings);
  return parameters.theta * std::pow(parameters.factor * stretch - (parameters.factor - 1), dim / (dim - 2));
}

template <class T, class Real>
void rope(const Rope& op) {
  const std::int64_t half = op.parameters.rotary_dim / 2;
  const std::int32_t* positions = integers(op.batch.positions);
  for_each_sequence(op.batch, [&](std::int64_t, std::int64_t begin, std::int64_t end, std::int64_t) {
    if (begin == end) return;
    const double theta = rope_theta(op.parameters, positions[end - 1] + 1);
    for (std::int64_t t = begin; t < end; ++t) {
      double position = positions[t];
      if (op.parameters.scaling == RopeScaling::linear) position /= op.parameters.factor;
      for (std::int64_t i = 0; i < half; ++i) {
        const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(op.parameters.rotary_dim);
        const double angle = position * std::pow(theta, -exponent);
        const auto cosine = static_cast<Real>(std::cos(angle)), sine = static_cast<Real>(std::sin(angle));
        for (std::int64_t h = 0; h < op.x.size(1); ++h) {
          T* x = row<T>(op.x, t, h);
          const Real low = x[i], high = x[i + half];
          x[i] = static_cast<T>(low * cosine - high * sine);
          x[i + half] = static_cast<T>(high * cosine + low * sine);
        }
      }
    }
  });
}

/// One query over the keys and values at positions 0 .. last of its slot.
template <class T, class Real>
void attend(const Attention& op, std::int64_t t, std::int64_t slot, std::int64_t h, std::vector<Real>& scores) {
  const std::int64_t head_dim = op.q.size(2), kv_head = h / (op.q.size(1) / op.k.size(1));
  const std::int64_t count = integers(op.batch.positions)[t] + 1;
  const T* q = row<T>(op.q, t, h);
  scores.resize(static_cast<std::size_t>(count));
  const Tensor keys = op.k_cache[slot], values = op.v_cache[slot];
  Real largest = -std::numeric_limits<Real>::infinity();
  for (std::int64_t j = 0; j < count; ++j) {
    const T* k = row<T>(keys, j, kv_head);
    Real dot = 0;
    for (std::int64_t i = 0; i < head_dim; ++i) dot += static_cast<Real>(q[i]) * k[i];
    scores[static_cast<std::size_t>(j)] = dot * static_cast<Real>(op.scale);
    largest = std::max(largest, scores[static_cast<std::size_t>(j)]);
  }
  Real total = 0;
  for (Real& score : scores) total += score = std::exp(score - largest);
  std::vector<Real> sum(static_cast<std::size_t>(head_dim));
  for (std::int64_t j = 0; j < count; ++j) {
    const T* v = row<T>(values, j, kv_head);
    const Real share = scores[static_cast<std::size_t>(j)] / total;
    for (std::int64_t i = 0; i < head_dim; ++i) sum[static_cast<std::size_t>(i)] += share * v[i];
  }
  T* out = row<T>(op.out, t, h);
  for (std::int64_t i = 0; i < head_dim; ++i) out[i] = static_cast<T>(sum[static_cast<std::size_t>(i)]);
}

template <class T, class Real>
void attention(const Attention& op) {
  const std::int64_t head_dim = op.q.size(2);
  std::vector<Real> scores;
  for_each_sequence(op.batch, [&](std::int64_t, std::int64_t begin, std::int64_t end, std::int64_t slot) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t position = integers(op.batch.positions)[t];
      for (std::int64_t h = 0; h < op.k.size(1); ++h) {
        std::copy_n(row<T>(op.k, t, h), head_dim, row<T>(op.k_cache[slot], position, h));
        std::copy_n(row<T>(op.v, t, h), head_dim, row<T>(op.v_cache[slot], position, h));
      }
      for (std::int64_t h = 0; h < op.q.size(1); ++h) attend<T, Real>(op, t, slot, h, scores);
    }
  });
}

}  // namespace mamba2::reference
