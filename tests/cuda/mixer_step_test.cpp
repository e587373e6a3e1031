#include "mamba2/cuda/mixer_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

struct Case {
  SsdShape shape;
  int kernel;
  DType dtype, state_dtype;
  int sequences;
  bool gate;
  std::vector<std::int32_t> slots;
  std::vector<double> row, conv_weight, conv_bias, dt_bias, A, A_log, D, conv_state, ssm_state;

  int inner() const { return shape.num_heads * shape.head_dim; }
  int conv_dim() const { return inner() + 2 * shape.n_groups * shape.state_size; }
  int width() const { return inner() + conv_dim() + shape.num_heads; }
  /// Rows as in_proj leaves them, 16-byte aligned.
  int stride() const { return (width() + 7) / 8 * 8; }
};

Case random_case(SsdShape shape, DType dtype, DType state_dtype, int sequences, int kernel, Random& random) {
  Case c{shape, kernel, dtype, state_dtype, sequences, uniform_int(0, 3, random) > 0, {}, {}, {}, {}, {},
         {},    {},     {},    {},          {}};
  for (int i = 0; i < sequences; ++i) c.slots.push_back(sequences - i);  // slot 0 belongs to nobody
  auto values = [&](int count, DType type) {
    return rounded_to(normal_values(static_cast<std::size_t>(count), random), type);
  };
  c.row = values(sequences * c.stride(), dtype);
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
  c.conv_state = values((sequences + 1) * c.conv_dim() * (kernel - 1), dtype);
  c.ssm_state = values((sequences + 1) * c.inner() * shape.state_size, state_dtype);
  return c;
}

struct Result {
  std::vector<double> out, conv_state, ssm_state;
};

constexpr double dt_max = 2.0;

Result reference(const Case& c) {
  const int P = c.shape.head_dim, N = c.shape.state_size, H = c.shape.num_heads, taps = c.kernel - 1;
  Result result{{}, c.conv_state, c.ssm_state};
  for (int s = 0; s < c.sequences; ++s) {
    const double* row = c.row.data() + s * c.stride();
    std::vector<double> xBC(static_cast<std::size_t>(c.conv_dim()));
    for (int i = 0; i < c.conv_dim(); ++i) {
      double* state = result.conv_state.data() + (c.slots[s] * c.conv_dim() + i) * taps;
      const double input = row[c.inner() + i];
      double sum = c.conv_bias[i] + c.conv_weight[i * c.kernel + taps] * input;
      for (int k = 0; k < taps; ++k) sum += c.conv_weight[i * c.kernel + k] * state[k];
      xBC[i] = rounded_to(sum / (1 + std::exp(-sum)), c.dtype);
      for (int k = 0; k < taps; ++k) state[k] = k + 1 < taps ? state[k + 1] : input;
    }
    for (int h = 0; h < H; ++h) {
      const double raw = row[c.inner() + c.conv_dim() + h] + c.dt_bias[h];
      const double dt = std::min(std::log1p(std::exp(raw)), dt_max), decay = std::exp(dt * c.A[h]);
      const double* B = xBC.data() + c.inner() + h / (H / c.shape.n_groups) * N;
      const double* C = B + c.shape.n_groups * N;
      for (int p = 0; p < P; ++p) {
        double* state = result.ssm_state.data() + (static_cast<std::ptrdiff_t>(c.slots[s]) * H * P + h * P + p) * N;
        double y = c.D[h] * xBC[h * P + p];
        for (int n = 0; n < N; ++n) {
          state[n] = decay * state[n] + dt * xBC[h * P + p] * B[n];
          y += state[n] * C[n];
        }
        const double z = row[h * P + p];
        result.out.push_back(c.gate ? y * z / (1 + std::exp(-z)) : y);
      }
    }
  }
  return result;
}

Result on_device(const Case& c, const StochasticRounding& rounding = {}) {
  const DeviceArray row(c.row, c.dtype), conv_weight(c.conv_weight, DType::f32), conv_bias(c.conv_bias, DType::f32);
  const DeviceArray dt_bias(c.dt_bias, DType::f32), A_log(c.A_log, DType::f32), D(c.D, DType::f32), slots(c.slots);
  const DeviceArray conv_state(c.conv_state, c.dtype), ssm_state(c.ssm_state, c.state_dtype);
  const DeviceArray out(static_cast<std::size_t>(c.sequences * c.inner()) * element_size(c.dtype));
  const DeviceArray arrivals(std::vector<std::int32_t>(static_cast<std::size_t>(c.sequences), 0));
  MixerStep step;
  step.shape = c.shape;
  step.conv_kernel = c.kernel;
  step.dtype = c.dtype;
  step.zxBCdt = {row.data(), c.stride()};
  step.conv_weight = conv_weight.floats();
  step.conv_bias = conv_bias.floats();
  step.dt_bias = dt_bias.floats();
  step.dt_max = static_cast<float>(dt_max);
  step.A_log = A_log.floats();
  step.D = D.floats();
  step.gate = c.gate;
  step.sequences = c.sequences;
  step.slots = slots.ints();
  step.conv_state = conv_state.data();
  step.ssm_state = ssm_state.data();
  step.state_dtype = c.state_dtype;
  step.rounding = rounding;
  step.out = {out.data(), c.inner()};
  step.arrivals = static_cast<unsigned*>(arrivals.data());
  EXPECT_TRUE(mixer_step_is_tuned(step));
  mixer_step(step, nullptr);
  for (const std::byte byte : arrivals.download()) EXPECT_EQ(byte, std::byte{0}) << "arrivals are not zero again";
  return {out.download(c.dtype), conv_state.download(c.dtype), ssm_state.download(c.state_dtype)};
}

/// The convolution's outputs round to dtype and may land on the neighbour of the reference's, one unit off: each of the
/// state's added terms and y's state_size terms then differs by as much, besides the results' own rounding.
double bound(const std::vector<double>& want, DType operands, DType result) {
  double largest = 0;
  for (const double value : want) largest = std::max(largest, std::abs(value));
  return (2 * epsilon(operands) + epsilon(result)) * largest;
}

TEST(MixerStep, AgreesWithItsDefinitionInDoubleOverRandomShapes) {
  Random random(1);
  const DType dtypes[] = {DType::bf16, DType::f32, DType::f16};
  const int sizes[] = {64, 128, 256};
  for (int i = 0; i < 36; ++i) {
    const int groups = uniform_int(1, 3, random);
    const SsdShape shape{groups * uniform_int(1, 3, random), 64, groups, sizes[i / 3 % 3]};
    const Case c = random_case(shape, dtypes[i % 3], i % 2 == 0 ? DType::f32 : DType::bf16, uniform_int(1, 5, random),
                               uniform_int(2, 4, random), random);
    SCOPED_TRACE(std::string(name(c.dtype)) + " state " + std::string(name(c.state_dtype)) + " N" +
                 std::to_string(shape.state_size) + " H" + std::to_string(shape.num_heads) + " G" +
                 std::to_string(groups));
    const Result want = reference(c), got = on_device(c);
    EXPECT_LE(max_error(got.out, want.out), bound(want.out, c.dtype, c.dtype)) << "out";
    EXPECT_EQ(max_error(got.conv_state, want.conv_state), 0.0) << "conv_state";
    EXPECT_LE(max_error(got.ssm_state, want.ssm_state), bound(want.ssm_state, c.dtype, c.state_dtype)) << "ssm_state";
  }
}

TEST(MixerStep, RoundsTheStateByChanceToItsTrueValueOnAverage) {
  Random random(2);
  Case c = random_case({1, 64, 1, 128}, DType::f32, DType::bf16, 1, 4, random);
  const Result want = reference(c);
  constexpr int draws = 400;
  const DeviceArray seed(std::vector<std::int32_t>{77, 0});
  std::vector<double> mean(want.ssm_state.size(), 0.0);
  for (int draw = 0; draw < draws; ++draw) {
    const DeviceArray step(std::vector<std::int32_t>{draw, 0});
    const Result got =
        on_device(c, {static_cast<const std::uint64_t*>(seed.data()), static_cast<const std::uint64_t*>(step.data())});
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += got.ssm_state[i] / draws;
  }
  // a rounded value is off by less than a unit u, so the mean of 400 has deviation under u / 2 / 20; six of those, for
  // 8192 values
  for (std::size_t i = 64 * 128; i < mean.size(); ++i) {
    const double unit = epsilon(DType::bf16) * std::exp2(std::floor(std::log2(std::abs(want.ssm_state[i]) + 1e-30)));
    ASSERT_LE(std::abs(mean[i] - want.ssm_state[i]), 6 * unit / 40 + 1e-5) << "element " << i;
  }
}

}  // namespace
}  // namespace mamba2::cuda
