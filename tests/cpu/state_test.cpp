// The state in bf16: what is written is the f32 result, rounded once as ops.h says.
#include <bit>

#include "mamba2/base/error.h"
#include "mamba2/base/random.h"
#include "mamba2/reference/reference_backend.h"
#include "tests/cpu/scan_shape.h"

namespace mamba2::test {
namespace {

class StateOnEveryIsa : public EveryIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, StateOnEveryIsa, testing::ValuesIn(cpu::available_isas()), isa_name);

constexpr std::int64_t layer = 5;

/// What StateRounding says of one element.
bf16 rounded(float value, StateRounding rounding, const ScanShape& s, std::int64_t head, std::int64_t p, std::int64_t n,
             std::int32_t position) {
  if (rounding == StateRounding::nearest) return to_bf16(value);
  const std::int64_t blocks = (s.state_size + 63) / 64;
  const auto words =
      philox({state_rounding_key[0], state_rounding_key[1]},
             {static_cast<std::uint32_t>(8 * (p * blocks + n / 64) + n % 16 / 2), static_cast<std::uint32_t>(head),
              static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(layer)});
  const std::uint32_t word = words[static_cast<std::size_t>(n % 64 / 16)];
  const std::uint32_t noise = n % 2 == 0 ? word & 0xFFFFU : word >> 16;
  return bf16{static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(value) + noise) >> 16)};
}

/// One scan over `tokens` tokens with the state in f32 and in bf16, from the same bf16 values.
void expect_rounding(Backend& backend, const ScanShape& s, std::int64_t tokens, StateRounding rounding) {
  Operands o(backend, 29, Values::as_drawn);
  const Batch batch = o.batch({tokens}, 40);
  const std::int64_t heads = s.heads();
  SsdScan op{.x = o.heads(tokens, heads, s.head_dim),
             .dt = o.rows(tokens, heads, 0.1, 0.5),
             .A_log = o.dense(Shape{heads}),
             .B = o.heads(tokens, s.groups, s.state_size),
             .C = o.heads(tokens, s.groups, s.state_size),
             .D = o.dense(Shape{heads}),
             .batch = batch,
             .ssm_state = o.in_dtype(o.dense(Shape{2, heads, s.head_dim, s.state_size}), DType::bf16),
             .rounding = rounding,
             .layer = layer,
             .out = o.unwritten_heads(tokens, heads, s.head_dim)};
  SsdScan in_f32 = op;
  in_f32.ssm_state = o.in_dtype(op.ssm_state, DType::f32);
  in_f32.out = o.unwritten_heads(tokens, heads, s.head_dim);
  backend.run(op);
  backend.run(in_f32);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t i = 0; i < heads * s.head_dim; ++i)
      ASSERT_EQ(op.out[t].as<float>()[i], in_f32.out[t].as<float>()[i]) << "token " << t;
  for (std::int64_t slot = 0; slot < 2; ++slot)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t p = 0; p < s.head_dim; ++p)
        for (std::int64_t n = 0; n < s.state_size; ++n) {
          const float value = in_f32.ssm_state[slot][h][p].as<float>()[n];
          const bf16 want =
              slot == 1 ? rounded(value, rounding, s, h, p, n, static_cast<std::int32_t>(39 + tokens)) : to_bf16(value);
          ASSERT_EQ(op.ssm_state[slot][h][p].as<bf16>()[n].bits, want.bits) << h << ' ' << p << ' ' << n;
        }
}

TEST_P(StateOnEveryIsa, OneTokenAndAWholeChunkedScanRoundTheStateOnce) {
  for_random_cases([&] {
    const ScanShape shape = any_scan_shape();
    for (const StateRounding rounding : {StateRounding::nearest, StateRounding::stochastic})
      for (const std::int64_t tokens : {1, 70}) expect_rounding(backend(), shape, tokens, rounding);
  });
}

TEST(StateOfTheReference, IsRoundedOnce) {
  const auto reference = make_reference_backend(DType::f32);
  const ScanShape shape{.groups = 1, .heads_a_group = 2, .head_dim = 3, .state_size = 70, .D_for_each_element = false};
  for (const StateRounding rounding : {StateRounding::nearest, StateRounding::stochastic})
    for (const std::int64_t tokens : {1, 9}) expect_rounding(*reference, shape, tokens, rounding);
}

TEST_P(StateOnEveryIsa, StochasticRoundingIsRightOnAverage) {
  // A state that decays by nothing and gains 1/64 of a unit in the last place a token: to nearest it would never move.
  constexpr std::int64_t tokens = 4096, state_size = 128;
  const HostTensor x(DType::f32, Shape{1, 1, 1}), dt(DType::f32, Shape{1, 1}), B(DType::f32, Shape{1, 1, state_size});
  const HostTensor zero(DType::f32, Shape{1}), state(DType::bf16, Shape{1, 1, 1, state_size}),
      out(DType::f32, Shape{1, 1, 1});
  const HostTensor start(DType::i32, Shape{2}), slots(DType::i32, Shape{1}), positions(DType::i32, Shape{1});
  const HostTensor A_log(DType::f32, Shape{1});
  start.span<std::int32_t>()[1] = 1;
  x.span<float>()[0] = dt.span<float>()[0] = 1.0F;
  A_log.span<float>()[0] = -200.0F;
  for (float& b : B.span<float>()) b = 0x1p-13F;
  for (bf16& s : state.span<bf16>()) s = to_bf16(1.0F);
  for (std::int32_t t = 0; t < tokens; ++t) {
    positions.span<std::int32_t>()[0] = t;
    backend().run(SsdScan{.x = x,
                          .dt = dt,
                          .A_log = A_log,
                          .B = B,
                          .C = B,
                          .D = zero,
                          .batch = {.tokens = 1,
                                    .sequences = 1,
                                    .longest = 1,
                                    .sequence_start = start,
                                    .slots = slots,
                                    .positions = positions},
                          .ssm_state = state,
                          .rounding = StateRounding::stochastic,
                          .layer = 0,
                          .out = out});
  }
  double mean = 0.0;
  for (const bf16 s : state.span<bf16>()) mean += static_cast<double>(to_float(s)) / state_size;
  // The sum of 4096 draws of chance 1/64 (then of others) has a deviation of 8 units of 2^-7, the mean of 128 an 11th.
  EXPECT_NEAR(mean, 1.0 + 4096 * 0x1p-13, 4 * 8 * 0x1p-7 / 11);
}

TEST_P(StateOnEveryIsa, AStateOfOtherDtypesIsRefused) {
  Operands o(backend(), 3, Values::as_drawn);
  const ScanShape s{.groups = 1, .heads_a_group = 1, .head_dim = 4, .state_size = 8, .D_for_each_element = false};
  for (const std::int64_t tokens : {1, 20}) {
    const Batch batch = o.batch({tokens});
    const SsdScan op{.x = o.heads(tokens, 1, 4),
                     .dt = o.rows(tokens, 1),
                     .A_log = o.dense(Shape{1}),
                     .B = o.heads(tokens, 1, 8),
                     .C = o.heads(tokens, 1, 8),
                     .D = o.dense(Shape{1}),
                     .batch = batch,
                     .ssm_state = o.in_dtype(o.dense(Shape{2, 1, s.head_dim, s.state_size}), DType::f16),
                     .out = o.unwritten_heads(tokens, 1, 4)};
    EXPECT_THROW(o.backend().run(op), Error);
  }
}

}  // namespace
}  // namespace mamba2::test
