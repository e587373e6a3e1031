#include "mamba2/cuda/mixer_step.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "mamba2/ops/ops.h"
#include "tests/cuda/mixer_case.h"

namespace mamba2::cuda {
namespace {

/// Who makes the convolution's outputs.
enum class Convolution : std::uint8_t { in_each_block, separate };

MixerResult on_device(const MixerCase& c, Convolution convolution, const StochasticRounding& rounding = {}) {
  const DeviceArray row(c.row, DType::f32), conv_weight(c.conv_weight, DType::f32), conv_bias(c.conv_bias, DType::f32);
  const DeviceArray dt_bias(c.dt_bias, DType::f32), A_log(c.A_log, DType::f32), D(c.D, DType::f32), slots(c.slots);
  const DeviceArray conv_state(c.conv_state, DType::f32), ssm_state(c.ssm_state, c.state_dtype);
  const DeviceArray out(static_cast<std::size_t>(c.sequences * c.inner()) * sizeof(float));
  const DeviceArray arrivals(std::vector<std::int32_t>(static_cast<std::size_t>(c.sequences * c.shape.n_groups), 0));
  MixerStep step;
  step.shape = c.shape;
  step.conv_kernel = c.kernel;
  step.zxBCdt = {row.data(), c.stride()};
  step.conv_weight = conv_weight.floats();
  step.conv_bias = conv_bias.floats();
  step.dt_bias = dt_bias.floats();
  step.dt_max = static_cast<float>(mixer_dt_max);
  step.A_log = A_log.floats();
  step.D = D.floats();
  step.gate = c.gate;
  step.sequences = c.sequences;
  step.slots = slots.ints();
  step.conv_state = static_cast<float*>(conv_state.data());
  step.ssm_state = ssm_state.data();
  step.state_dtype = c.state_dtype;
  step.rounding = rounding;
  step.out = {out.data(), c.inner()};
  step.arrivals = static_cast<unsigned*>(arrivals.data());
  const DeviceArray convolved(static_cast<std::size_t>(c.sequences * c.conv_dim()) * sizeof(float));
  if (convolution == Convolution::separate) step.convolved = static_cast<float*>(convolved.data());
  EXPECT_TRUE(mixer_step_is_tuned(step));
  mixer_step(step, nullptr);
  for (const std::byte byte : arrivals.download()) EXPECT_EQ(byte, std::byte{0}) << "arrivals are not zero again";
  return {out.download(DType::f32), {}, conv_state.download(DType::f32), ssm_state.download(c.state_dtype), {}};
}

/// Fast exponentials and reciprocals are good to a few units each, sums of state_size terms add one more for a few of
/// them: 64 units of f32 of the largest value; besides the state's own rounding.
double bound(const std::vector<double>& want, DType result) {
  double largest = 0;
  for (const double value : want) largest = std::max(largest, std::abs(value));
  return (64 * epsilon(DType::f32) + (result == DType::f32 ? 0 : epsilon(result))) * largest;
}

TEST(MixerStep, AgreesWithItsDefinitionInDoubleOverRandomShapes) {
  Random random(1);
  const int sizes[] = {64, 128, 256};
  for (int i = 0; i < 48; ++i) {
    const int groups = uniform_int(1, 3, random);
    const SsdShape shape{groups * uniform_int(1, 3, random), 64, groups, sizes[i % 3]};
    const MixerCase c = random_mixer_case(shape, i % 2 == 0 ? DType::f32 : DType::bf16, uniform_int(1, 5, random),
                                          uniform_int(2, 4, random), random);
    const Convolution convolution = i / 6 % 2 == 0 ? Convolution::in_each_block : Convolution::separate;
    SCOPED_TRACE("state " + std::string(name(c.state_dtype)) + " N" + std::to_string(shape.state_size) + " H" +
                 std::to_string(shape.num_heads) + " G" + std::to_string(groups) +
                 (convolution == Convolution::separate ? " separate" : ""));
    const MixerResult want = mixer_reference(c), got = on_device(c, convolution);
    EXPECT_LE(max_error(got.out, want.out), bound(want.out, DType::f32)) << "out";
    EXPECT_EQ(max_error(got.conv_state, want.conv_state), 0.0) << "conv_state";
    EXPECT_LE(max_error(got.ssm_state, want.ssm_state), bound(want.ssm_state, c.state_dtype)) << "ssm_state";
  }
}

TEST(MixerStep, GivesTheSameBitsHoweverTheConvolutionIsMade) {
  Random random(3);
  for (const DType state_dtype : {DType::f32, DType::bf16}) {
    const MixerCase c = random_mixer_case({4, 64, 2, 128}, state_dtype, 3, 4, random);
    const MixerResult one = on_device(c, Convolution::in_each_block), other = on_device(c, Convolution::separate);
    EXPECT_EQ(one.out, other.out);
    EXPECT_EQ(one.ssm_state, other.ssm_state);
    EXPECT_EQ(one.conv_state, other.conv_state);
  }
}

/// A float rounded to bf16 as StateRounding::stochastic says, its bits moved by so many units before.
double rounded_by_chance(double value, std::int64_t units, std::uint32_t random_16_bits) {
  const auto bits = static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(static_cast<float>(value))) + units;
  const auto sum = static_cast<std::uint32_t>(bits + random_16_bits);
  return static_cast<double>(std::bit_cast<float>(sum & 0xFFFF0000U));
}

TEST(MixerStep, RoundsTheStateByTheChanceThatTheOpSays) {
  Random random(2);
  constexpr unsigned layer = 5;
  constexpr std::int64_t units = 64;  // of f32, as above: where these don't matter the result is certain
  for (const int N : {64, 128, 256})
    for (const Convolution convolution : {Convolution::in_each_block, Convolution::separate}) {
      const MixerCase c = random_mixer_case({3, 64, 1, N}, DType::bf16, 2, 4, random);
      MixerCase in_f32 = c;
      in_f32.state_dtype = DType::f32;
      const std::vector<std::int32_t> at{77, 1000000};
      const DeviceArray positions(at);
      const MixerResult want = mixer_reference(in_f32),
                        got = on_device(c, convolution, {.positions = positions.ints(), .layer = layer});
      std::size_t uncertain = 0, wrong = 0;
      for (int s = 0; s < c.sequences; ++s)
        for (int row = 0; row < c.inner(); ++row)
          for (int n = 0; n < N; ++n) {
            const int head = row / 64, p = row % 64;
            const auto words = philox(
                {state_rounding_key[0], state_rounding_key[1]},
                {static_cast<std::uint32_t>(8 * (p * ((N + 63) / 64) + n / 64) + n % 16 / 2),
                 static_cast<std::uint32_t>(head), static_cast<std::uint32_t>(at[static_cast<std::size_t>(s)]), layer});
            const std::uint32_t word = words[static_cast<std::size_t>(n % 64 / 16)];
            const std::uint32_t chance = n % 2 == 0 ? word & 0xFFFFU : word >> 16U;
            const auto place =
                static_cast<std::size_t>((c.slots[static_cast<std::size_t>(s)] * c.inner() + row) * N + n);
            const double value = want.ssm_state[place];
            // near zero, where terms cancel, a unit says nothing
            const double low = rounded_by_chance(value, -units, chance), high = rounded_by_chance(value, units, chance);
            if (low != high || std::abs(value) < 1e-3)
              ++uncertain;
            else if (got.ssm_state[place] != low)
              ++wrong;
          }
      EXPECT_EQ(wrong, 0U) << "N" << N;
      EXPECT_LT(uncertain, static_cast<std::size_t>(c.sequences * c.inner() * N / 50));
    }
}

}  // namespace
}  // namespace mamba2::cuda
