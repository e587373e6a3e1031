#pragma once

#include <algorithm>
#include <cmath>

#include "mamba2/cuda/ssd_scan.h"
#include "tests/cuda/support.h"

/// One token of several sequences through a mixer, and what comes of it by definition, in double.
namespace mamba2::cuda {

struct MixerCase {
  SsdShape shape;
  int kernel;
  DType state_dtype;
  int sequences;
  bool gate;
  std::vector<std::int32_t> slots;
  std::vector<double> row, conv_weight, conv_bias, dt_bias, A, A_log, D, conv_state, ssm_state;
  std::vector<double> ssm_mass;  // the sum of the terms' sizes that each element of ssm_state is made of

  int inner() const { return shape.num_heads * shape.head_dim; }
  int conv_dim() const { return inner() + 2 * shape.n_groups * shape.state_size; }
  int width() const { return inner() + conv_dim() + shape.num_heads; }
  /// Rows as in_proj leaves them, 16-byte aligned.
  int stride() const { return (width() + 7) / 8 * 8; }
};

inline MixerCase random_mixer_case(SsdShape shape, DType state_dtype, int sequences, int kernel, Random& random) {
  MixerCase c{shape, kernel, state_dtype, sequences, uniform_int(0, 3, random) > 0, {}, {}, {}, {}, {}, {}, {},
              {},    {},     {},          {}};
  for (int i = 0; i < sequences; ++i) c.slots.push_back(sequences - i);  // slot 0 belongs to nobody
  auto values = [&](int count, DType type) {
    return rounded_to(normal_values(static_cast<std::size_t>(count), random), type);
  };
  c.row = values(sequences * c.stride(), DType::f32);
  c.conv_weight = values(c.conv_dim() * kernel, DType::f32);
  c.conv_bias = values(c.conv_dim(), DType::f32);
  c.dt_bias = values(shape.num_heads, DType::f32);
  c.A = rounded_to(log_uniform_values(static_cast<std::size_t>(shape.num_heads), 0.05, 8, random), DType::f32);
  c.A_log.clear();
  for (double& a : c.A) {
    c.A_log.push_back(rounded_to(std::log(a), DType::f32));
    a = -std::exp(c.A_log.back());
  }
  c.D = values(shape.num_heads, DType::f32);
  c.conv_state = values((sequences + 1) * c.conv_dim() * (kernel - 1), DType::f32);
  c.ssm_state = values((sequences + 1) * c.inner() * shape.state_size, state_dtype);
  for (const double value : c.ssm_state) c.ssm_mass.push_back(std::abs(value));
  return c;
}

struct MixerResult {
  std::vector<double> out, out_mass, conv_state, ssm_state, ssm_mass;
};

inline constexpr double mixer_dt_max = 2.0;

inline MixerResult mixer_reference(const MixerCase& c) {
  const int P = c.shape.head_dim, N = c.shape.state_size, H = c.shape.num_heads, taps = c.kernel - 1;
  MixerResult result{{}, {}, c.conv_state, c.ssm_state, c.ssm_mass};
  for (int s = 0; s < c.sequences; ++s) {
    const double* row = c.row.data() + s * c.stride();
    std::vector<double> xBC(static_cast<std::size_t>(c.conv_dim()));
    for (int i = 0; i < c.conv_dim(); ++i) {
      double* state = result.conv_state.data() + (c.slots[s] * c.conv_dim() + i) * taps;
      const double input = row[c.inner() + i];
      double sum = c.conv_bias[i] + c.conv_weight[i * c.kernel + taps] * input;
      for (int k = 0; k < taps; ++k) sum += c.conv_weight[i * c.kernel + k] * state[k];
      xBC[i] = sum / (1 + std::exp(-sum));
      for (int k = 0; k < taps; ++k) state[k] = k + 1 < taps ? state[k + 1] : input;
    }
    for (int h = 0; h < H; ++h) {
      const double raw = row[c.inner() + c.conv_dim() + h] + c.dt_bias[h];
      const double dt = std::min(std::log1p(std::exp(raw)), mixer_dt_max), decay = std::exp(dt * c.A[h]);
      const double* B = xBC.data() + c.inner() + h / (H / c.shape.n_groups) * N;
      const double* C = B + c.shape.n_groups * N;
      for (int p = 0; p < P; ++p) {
        const std::ptrdiff_t first = (static_cast<std::ptrdiff_t>(c.slots[s]) * H * P + h * P + p) * N;
        double *state = result.ssm_state.data() + first, *mass = result.ssm_mass.data() + first;
        double y = c.D[h] * xBC[h * P + p], y_mass = std::abs(y);
        for (int n = 0; n < N; ++n) {
          state[n] = decay * state[n] + dt * xBC[h * P + p] * B[n];
          mass[n] = decay * mass[n] + std::abs(dt * xBC[h * P + p] * B[n]);
          y += state[n] * C[n];
          y_mass += mass[n] * std::abs(C[n]);
        }
        const double z = row[h * P + p], gate = c.gate ? z / (1 + std::exp(-z)) : 1.0;
        result.out.push_back(y * gate);
        result.out_mass.push_back(y_mass * std::abs(gate));
      }
    }
  }
  return result;
}

}  // namespace mamba2::cuda
