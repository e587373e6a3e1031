#include "operands.h"

/// The mixer's ops over time, against their formulas written out.
namespace mamba2 {
namespace {

using test::silu;
using ::testing::HasSubstr;

class Mixing : public test::Operands {};
INSTANTIATE_TEST_SUITE_P(Precision, Mixing, ::testing::Values(DType::f32, DType::f64), test::precision_name);

TEST_P(Mixing, ConvolutionSeesItsStateAsLeftContextAndLeavesTheLastInputsInIt) {
  // two sequences of one channel, kernel 3; slot 2 is nobody's
  const Tensor state = tensor({3, 1, 2}, {0, 0, 10, 20, 7, 8}), out = zeros({4, 1});
  backend().run(CausalConv{.x = tensor({4, 1}, {1, 2, 3, 4}),
                           .weight = tensor({1, 3}, {100, 10, 1}),
                           .bias = tensor({1}, {0.5}),
                           .act = Activation::none,
                           .batch = batch({3, 1}, {0, 1}),
                           .conv_state = state,
                           .out = out});
  expect(out, {1.5, 12.5, 123.5, 1204.5});
  expect(state, {2, 3, 20, 4, 7, 8});
}

TEST_P(Mixing, ConvolutionActivatesAfterTheBiasAndEachChannelHasItsOwnTaps) {
  const Tensor out = zeros({1, 2});
  backend().run(CausalConv{.x = tensor({1, 2}, {1, 2}),
                           .weight = tensor({2, 2}, {9, 3, 9, -1}),
                           .bias = tensor({2}, {0.25, 0.5}),
                           .act = Activation::silu,
                           .batch = batch({1}),
                           .conv_state = zeros({1, 2, 1}),
                           .out = out});
  expect(out, {silu(3.25), silu(-1.5)});
}

TEST_P(Mixing, ConvolutionOfOneTapHasNoState) {
  const Tensor out = zeros({2, 1});
  backend().run(CausalConv{.x = tensor({2, 1}, {1, 2}),
                           .weight = tensor({1, 1}, {3}),
                           .bias = {},
                           .act = Activation::none,
                           .batch = batch({2}),
                           .conv_state = zeros({1, 1, 0}),
                           .out = out});
  expect(out, {3, 6});
}

TEST_P(Mixing, ConvolutionOfFewerTokensThanTapsShiftsItsState) {
  const Tensor state = tensor({1, 1, 3}, {1, 2, 3});
  backend().run(CausalConv{.x = tensor({1, 1}, {4}),
                           .weight = tensor({1, 4}, {0, 0, 0, 1}),
                           .bias = {},
                           .act = Activation::none,
                           .batch = batch({1}),
                           .conv_state = state,
                           .out = zeros({1, 1})});
  expect(state, {2, 3, 4});
}

TEST_P(Mixing, ScanFollowsTheRecurrence) {
  // one head of width 2, state size 2, two tokens from a state that is not zero
  const double A = -std::exp(0.3);
  const std::vector<double> dt{0.5, 0.25}, x{1, -2, 3, 0.5}, B{1, 2, -1, 0.5}, C{0.5, 1, 2, -1}, D{0.75};
  std::vector<double> S{1, 0, 0, 2}, expected;
  for (std::size_t t = 0; t < 2; ++t)
    for (std::size_t p = 0; p < 2; ++p) {
      double y = D[0] * x[2 * t + p];
      for (std::size_t n = 0; n < 2; ++n) {
        double& s = S[2 * p + n];
        s = std::exp(dt[t] * A) * s + dt[t] * x[2 * t + p] * B[2 * t + n];
        y += s * C[2 * t + n];
      }
      expected.push_back(y);
    }
  const Tensor state = tensor({1, 1, 2, 2}, {1, 0, 0, 2}), out = zeros({2, 1, 2});
  backend().run(SsdScan{.x = tensor({2, 1, 2}, x),
                        .dt = tensor({2, 1}, dt),
                        .A_log = tensor({1}, {0.3}),
                        .B = tensor({2, 1, 2}, B),
                        .C = tensor({2, 1, 2}, C),
                        .D = tensor({1}, D),
                        .batch = batch({2}),
                        .ssm_state = state,
                        .out = out});
  expect(out, expected);
  expect(state, S);
}

TEST_P(Mixing, ScanGivesEachHeadItsGroupAndEachSequenceItsSlot) {
  // four heads in two groups, dt = 1, no decay to speak of from a zero state: y = x B C
  const Tensor state = zeros({3, 4, 1, 1}), out = zeros({2, 4, 1});
  backend().run(SsdScan{.x = tensor({2, 4, 1}, {1, 2, 3, 4, 5, 6, 7, 8}),
                        .dt = tensor({2, 4}, std::vector<double>(8, 1)),
                        .A_log = tensor({4}, {0, 0, 0, 0}),
                        .B = tensor({2, 2, 1}, {10, 100, 10, 100}),
                        .C = tensor({2, 2, 1}, {1, 2, 1, 2}),
                        .D = tensor({4}, {0, 0, 0, 0}),
                        .batch = batch({1, 1}, {2, 0}),
                        .ssm_state = state,
                        .out = out});
  expect(out, {10, 20, 600, 800, 50, 60, 1400, 1600});
  expect(state, {50, 60, 700, 800, 0, 0, 0, 0, 10, 20, 300, 400});
}

TEST_P(Mixing, ScanTakesADForEveryChannel) {
  const Tensor out = zeros({1, 1, 2});
  backend().run(SsdScan{.x = tensor({1, 1, 2}, {1, 2}),
                        .dt = zeros({1, 1}),
                        .A_log = tensor({1}, {0}),
                        .B = tensor({1, 1, 1}, {1}),
                        .C = tensor({1, 1, 1}, {1}),
                        .D = tensor({1, 2}, {3, 5}),
                        .batch = batch({1}),
                        .ssm_state = zeros({1, 1, 2, 1}),
                        .out = out});
  expect(out, {3, 10});
}

TEST_P(Mixing, ScanRoundsAStateKeptInBf16OnlyBetweenCalls) {
  const Tensor state = tensor({1, 1, 1, 1}, {0}, DType::bf16), out = zeros({2, 1, 1});
  const double x = 1 + 0x1p-10;  // bf16 has 8 bits
  backend().run(SsdScan{.x = tensor({2, 1, 1}, {x, 0}),
                        .dt = tensor({2, 1}, {1, 0}),
                        .A_log = tensor({1}, {0}),
                        .B = tensor({2, 1, 1}, {1, 1}),
                        .C = tensor({2, 1, 1}, {1, 1}),
                        .D = tensor({1}, {0}),
                        .batch = batch({2}),
                        .ssm_state = state,
                        .out = out});
  expect(out, {x, x});
  EXPECT_EQ(element_as_double(state, 0), 1);
}

/// Sizes of a whole mixer with an MLP of its own: one head of width 2, state size 1, kernel 1, MLP of width 1.
class WholeMixer : public Mixing {
 protected:
  // columns: z0, x0, z (2), x (2), B, C, dt
  Mixer mixer() {
    return {.projected = tensor({1, 9}, {0.5, 3, 1, -1, 2, 4, 0.5, 2, 0}),
            .conv_weight = tensor({4, 1}, {1, 1, 1, 1}),
            .conv_bias = {},
            .act = Activation::none,
            .dt_bias = tensor({1}, {0}),
            .A_log = tensor({1}, {0}),
            .D = tensor({1}, {10}),
            .limit = {},
            .n_groups = 1,
            .norm_weight = {},
            .norm_group_size = 2,
            .batch = batch({1}),
            .conv_state = zeros({1, 4, 0}),
            .ssm_state = zeros({1, 1, 2, 1}),
            .xBC = zeros({1, 4}),
            .dt = zeros({1, 1}),
            .y = zeros({1, 2}),
            .out = zeros({1, 3})};
  }
};
INSTANTIATE_TEST_SUITE_P(Precision, WholeMixer, ::testing::Values(DType::f32, DType::f64), test::precision_name);

TEST_P(WholeMixer, ReadsItsColumnsInOrderAndWritesTheMlpFirst) {
  const Mixer op = mixer();
  backend().run(op);
  const double dt = std::log(2.0);
  const double y0 = dt * 2 * 0.5 * 2 + 10 * 2, y1 = dt * 4 * 0.5 * 2 + 10 * 4;
  expect(op.out, {silu(0.5) * 3, y0 * silu(1), y1 * silu(-1)});
}

TEST_P(WholeMixer, RefusesOperandsThatDoNotFitBeforeAnyIsTouched) {
  auto error = [&](auto&& change) {
    Mixer op = mixer();
    change(op);
    try {
      backend().run(op);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(error([&](Mixer& op) {
                op.projected = zeros({1, 8});
              }),
              HasSubstr("Mixer: projected is (1, 8), expected (1, 9)"));
  EXPECT_THAT(error([&](Mixer& op) { op.D = zeros({2}); }), HasSubstr("Mixer: D is (2), expected (1)"));
  EXPECT_THAT(error([&](Mixer& op) { op.conv_bias = zeros({3}); }), HasSubstr("Mixer: conv_bias is (3), expected (4)"));
  EXPECT_THAT(error([&](Mixer& op) { op.n_groups = 0; }), HasSubstr("Mixer: n_groups is 0"));
  EXPECT_THAT(error([&](Mixer& op) { op.out = zeros({1, 1}); }), HasSubstr("Mixer: out is (1, 1)"));
  EXPECT_THAT(error([&](Mixer& op) {
                op.norm_weight = zeros({2});
                op.norm_group_size = 0;
              }),
              HasSubstr("Mixer: norm_group_size is 0, expected a divisor of 2"));
}

}  // namespace
}  // namespace mamba2
