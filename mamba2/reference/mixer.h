#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "mamba2/base/random.h"
#include "mamba2/reference/elements.h"

/// What a Mamba-2 mixer does over time, one token after the other.
namespace mamba2::reference {

template <class T, class Real>
void causal_conv(const CausalConv& op) {
  const std::int64_t conv_dim = op.x.size(1), kernel = op.weight.size(1), context = kernel - 1;
  std::vector<T> window(static_cast<std::size_t>(kernel));  // oldest first, the present token last
  for_each_sequence(op.batch, [&](std::int64_t, std::int64_t begin, std::int64_t end, std::int64_t slot) {
    if (begin == end) return;
    for (std::int64_t c = 0; c < conv_dim; ++c) {
      T* state = row<T>(op.conv_state, slot, c);
      const T* weight = row<T>(op.weight, c);
      const T bias = op.bias.empty() ? T(0) : op.bias.as<T>()[c];
      std::copy_n(state, context, window.begin());
      for (std::int64_t t = begin; t < end; ++t) {
        window.back() = row<T>(op.x, t)[c];
        Real sum = bias;
        for (std::int64_t k = 0; k < kernel; ++k)
          sum += static_cast<Real>(weight[k]) * window[static_cast<std::size_t>(k)];
        row<T>(op.out, t)[c] = static_cast<T>(apply<Real>(op.act, sum));
        std::copy(window.begin() + 1, window.end(), window.begin());
      }
      std::copy_n(window.begin(), context, state);
    }
  });
}

template <class T, class Real>
void time_step(const TimeStep& op) {
  for (std::int64_t t = 0; t < op.dt_raw.size(0); ++t)
    for (std::int64_t h = 0; h < op.dt_raw.size(1); ++h) {
      const Real x = static_cast<Real>(row<T>(op.dt_raw, t)[h]) + op.dt_bias.as<T>()[h];
      const Real softplus = std::max(x, Real(0)) + std::log1p(std::exp(-std::abs(x)));  // ln(1 + e^x) without overflow
      const Real low = static_cast<Real>(op.limit.min), high = static_cast<Real>(op.limit.max);
      row<T>(op.out, t)[h] = static_cast<T>(std::min(std::max(softplus, low), high));
    }
}

/// One head's state (head_dim, state_size) in T, whatever dtype it is kept in.
template <class T>
class HeadState {
 public:
  HeadState(const Tensor& ssm_state, std::int64_t slot, std::int64_t head)
      : view_(ssm_state[slot][head]), values_(static_cast<std::size_t>(view_.elements())) {
    load(view_, 0, view_.elements(), values_.data());
  }
  T* row(std::int64_t p) { return values_.data() + p * view_.size(1); }
  void store() { convert(Tensor(values_.data(), sizeof(T) == 8 ? DType::f64 : DType::f32, view_.shape), view_); }

  /// With StateRounding::stochastic, after the token at that position.
  void store_by_chance(std::int64_t layer, std::int64_t head, std::int32_t position) {
    const std::int64_t blocks = (view_.size(1) + 63) / 64;
    for (std::int64_t p = 0; p < view_.size(0); ++p)
      for (std::int64_t n = 0; n < view_.size(1); ++n) {
        const auto words = philox(
            {state_rounding_key[0], state_rounding_key[1]},
            {static_cast<std::uint32_t>(8 * (p * blocks + n / 64) + n % 16 / 2), static_cast<std::uint32_t>(head),
             static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(layer)});
        const std::uint32_t noise = words[static_cast<std::size_t>(n % 64 / 16)] >> (n % 2 * 16) & 0xFFFFU;
        const auto value = static_cast<float>(row(p)[n]);
        const auto bits = std::bit_cast<std::uint32_t>(value);
        view_.as<bf16>()[p * view_.stride(0) + n] =
            std::isfinite(value) ? bf16{static_cast<std::uint16_t>((bits + noise) >> 16)} : to_bf16(value);
      }
  }

 private:
  Tensor view_;
  std::vector<T> values_;
};

template <class T, class Real>
void scan_head(const SsdScan& op, std::int64_t begin, std::int64_t end, std::int64_t slot, std::int64_t h) {
  const std::int64_t head_dim = op.x.size(2), state_size = op.B.size(2);
  const std::int64_t group = h / (op.x.size(1) / op.B.size(1));
  const Real A = -std::exp(static_cast<Real>(op.A_log.as<T>()[h]));
  HeadState<T> state(op.ssm_state, slot, h);
  for (std::int64_t t = begin; t < end; ++t) {
    const Real dt = row<T>(op.dt, t)[h];
    const Real decay = std::exp(dt * A);
    const T* x = row<T>(op.x, t, h);
    const T* B = row<T>(op.B, t, group);
    const T* C = row<T>(op.C, t, group);
    for (std::int64_t p = 0; p < head_dim; ++p) {
      T* S = state.row(p);
      Real y = 0;
      for (std::int64_t n = 0; n < state_size; ++n) {
        S[n] = static_cast<T>(decay * S[n] + dt * x[p] * B[n]);
        y += static_cast<Real>(S[n]) * C[n];
      }
      const Real D = op.D.rank() == 2 ? row<T>(op.D, h)[p] : op.D.as<T>()[h];
      row<T>(op.out, t, h)[p] = static_cast<T>(y + D * x[p]);
    }
  }
  if (op.rounding == StateRounding::stochastic && op.ssm_state.dtype == DType::bf16)
    state.store_by_chance(op.layer, h, integers(op.batch.positions)[end - 1]);
  else
    state.store();
}

template <class T, class Real>
void ssd_scan(const SsdScan& op) {
  for_each_sequence(op.batch, [&](std::int64_t, std::int64_t begin, std::int64_t end, std::int64_t slot) {
    if (begin == end) return;
    for (std::int64_t h = 0; h < op.x.size(1); ++h) scan_head<T, Real>(op, begin, end, slot, h);
  });
}

}  // namespace mamba2::reference
