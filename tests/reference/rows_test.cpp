#include "operands.h"

/// Ops that know nothing of time, against their formulas written out.
namespace mamba2 {
namespace {

using test::sigmoid;
using test::silu;

class Rows : public test::Operands {};
INSTANTIATE_TEST_SUITE_P(Precision, Rows, ::testing::Values(DType::f32, DType::f64), test::precision_name);

TEST_P(Rows, LinearAddsProductBiasAndResidual) {
  const Tensor x = tensor({2, 3}, {1, 2, 3, -1, 0.5, 4}), out = tensor({2, 2}, {100, 200, 300, 400});
  const PreparedWeight* w = weight({2, 3}, {1, 0, -1, 2, 2, 0.5});
  backend().run(Linear{.x = x, .weight = w, .bias = tensor({2}, {10, 20}), .add = out, .out = out});
  expect(out, {100 + 10 - 2, 200 + 20 + 7.5, 300 + 10 - 5, 400 + 20 + 1});
}

TEST_P(Rows, LinearReadsWeightsOfEveryFloatingDtype) {
  const Tensor x = tensor({1, 2}, {2, 4});
  for (const DType held : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    const Tensor out = zeros({1, 3});
    const PreparedWeight* w = weight({3, 2}, {0.5, 1, -0.25, 2, 1.5, 0}, held);
    EXPECT_EQ(w->dtype, held);
    backend().run(Linear{.x = x, .weight = w, .bias = {}, .add = {}, .out = out});
    expect(out, {5, 7.5, 3});
  }
}

TEST_P(Rows, LinearGivesARowTheSameBitsAmongAnyNumberOfRows) {
  constexpr std::int64_t most = 35, width = 7, outputs = 5;
  std::vector<double> x, w;
  for (std::int64_t i = 0; i < most * width; ++i) x.push_back(std::sin(static_cast<double>(3 * i)));
  for (std::int64_t i = 0; i < outputs * width; ++i) w.push_back(std::cos(static_cast<double>(5 * i)));
  const Tensor rows = tensor({most, width}, x), all = zeros({most, outputs}), one = zeros({1, outputs});
  const PreparedWeight* matrix = weight({outputs, width}, w);
  backend().run(Linear{.x = rows, .weight = matrix, .bias = {}, .add = {}, .out = all});
  for (std::int64_t r = 0; r < most; ++r) {
    backend().run(Linear{.x = rows.slice(0, r, 1), .weight = matrix, .bias = {}, .add = {}, .out = one});
    for (std::int64_t i = 0; i < outputs; ++i)
      EXPECT_EQ(element_as_double(all, r * outputs + i), element_as_double(one, i)) << r;
  }
}

TEST_P(Rows, EmbeddingTakesTheRowsOfItsIds) {
  const Tensor out = zeros({3, 2});
  backend().run(
      Embedding{.ids = integers({2, 0, 2}), .weight = weight({3, 2}, {1, 2, 3, 4, 5, 6}, DType::bf16), .out = out});
  expect(out, {5, 6, 1, 2, 5, 6});
}

TEST_P(Rows, GatherTakesRowsInAnyOrder) {
  const Tensor out = zeros({3, 2});
  backend().run(GatherRows{.x = tensor({2, 2}, {1, 2, 3, 4}), .rows = integers({1, 1, 0}), .out = out});
  expect(out, {3, 4, 3, 4, 1, 2});
}

TEST_P(Rows, RmsNormDividesByTheRootOfTheMeanSquare) {
  const Tensor out = zeros({2, 2});
  backend().run(RmsNorm{.x = tensor({2, 2}, {3, 4, 0, 0}), .weight = tensor({2}, {1, 2}), .eps = 0.5, .out = out});
  const double scale = 1 / std::sqrt((9 + 16) / 2.0 + 0.5);
  expect(out, {3 * scale, 8 * scale, 0, 0});
}

TEST_P(Rows, GatedNormGatesThenNormalisesEachGroup) {
  const std::vector<double> y{1, 2, 3, 4}, z{0.5, -1, 2, 0}, w{1, 2, 3, 4};
  const Tensor out = zeros({1, 4});
  backend().run(GatedRmsNorm{.y = tensor({1, 4}, y),
                             .z = tensor({1, 4}, z),
                             .weight = tensor({4}, w),
                             .group_size = 2,
                             .eps = 0.25,
                             .order = GateOrder::gate_first,
                             .out = out});
  std::vector<double> g, expected;
  for (std::size_t i = 0; i < 4; ++i) g.push_back(y[i] * silu(z[i]));
  for (std::size_t i = 0; i < 4; ++i) {
    const std::size_t first = i / 2 * 2;
    const double mean = (g[first] * g[first] + g[first + 1] * g[first + 1]) / 2;
    expected.push_back(g[i] / std::sqrt(mean + 0.25) * w[i]);
  }
  expect(out, expected);
}

TEST_P(Rows, GatedNormNormalisesThenGatesInTheOtherOrderAndInPlace) {
  const Tensor y = tensor({1, 2}, {3, 4});
  backend().run(GatedRmsNorm{.y = y,
                             .z = tensor({1, 2}, {1, -2}),
                             .weight = tensor({2}, {1, 2}),
                             .group_size = 2,
                             .eps = 0,
                             .order = GateOrder::norm_first,
                             .out = y});
  const double scale = 1 / std::sqrt(12.5);
  expect(y, {3 * scale * silu(1), 8 * scale * silu(-2)});
}

TEST_P(Rows, GatedNormWithoutWeightOnlyGates) {
  const Tensor out = zeros({1, 2});
  backend().run(GatedRmsNorm{.y = tensor({1, 2}, {3, 4}), .z = tensor({1, 2}, {1, -2}), .weight = {}, .out = out});
  expect(out, {3 * silu(1), 4 * silu(-2)});
}

TEST_P(Rows, ActivationsAreTheirFormulas) {
  const std::vector<double> x{-3, -0.5, 0, 0.25, 2};
  auto expect_of = [&](Activation act, auto&& f) {
    const Tensor out = zeros({1, 5});
    backend().run(Activate{.x = tensor({1, 5}, x), .act = act, .out = out});
    std::vector<double> expected;
    for (const double value : x) expected.push_back(f(value));
    expect(out, expected);
  };
  const double pi = std::acos(-1.0);
  expect_of(Activation::none, [](double v) { return v; });
  expect_of(Activation::silu, silu);
  expect_of(Activation::gelu, [](double v) { return v * 0.5 * std::erfc(-v / std::sqrt(2.0)); });
  expect_of(Activation::gelu_tanh, [&](double v) {
    return v * sigmoid(2 * std::sqrt(2 / pi) * (v + 0.044715 * std::pow(v, 3)));  // 1 + tanh(a) = 2 sigmoid(2 a)
  });
  expect_of(Activation::relu, [](double v) { return v < 0 ? 0 : v; });
  expect_of(Activation::tanh, [](double v) { return 2 * sigmoid(2 * v) - 1; });
  expect_of(Activation::sigmoid, sigmoid);
}

TEST_P(Rows, SiluIsZeroFarBelowAndTheIdentityFarAbove) {
  const Tensor x = tensor({1, 2}, {-5000, 5000});
  backend().run(Activate{.x = x, .act = Activation::silu, .out = x});
  expect(x, {0, 5000});
}

TEST_P(Rows, GatedActivationMultipliesTheValueByTheActivatedGate) {
  const Tensor out = zeros({1, 2});
  backend().run(GatedActivation{.value = tensor({1, 2}, {3, 4}), .gate = tensor({1, 2}, {1, -2}), .out = out});
  expect(out, {3 * silu(1), 4 * silu(-2)});
}

TEST_P(Rows, TimeStepIsSoftplusWithinItsLimit) {
  const Tensor out = zeros({2, 2});
  backend().run(TimeStep{
      .dt_raw = tensor({2, 2}, {0, 1, -30, 700}), .dt_bias = tensor({2}, {0.5, -2}), .limit = {0.01, 600}, .out = out});
  expect(out, {std::log1p(std::exp(0.5)), std::log1p(std::exp(-1.0)), 0.01, 600});
}

TEST_P(Rows, TimeStepWithoutLimitNeitherOverflowsNorLosesSmallValues) {
  const Tensor out = zeros({1, 3});
  backend().run(
      TimeStep{.dt_raw = tensor({1, 3}, {5000, -40, 25}), .dt_bias = tensor({3}, {0, 0, 0}), .limit = {}, .out = out});
  expect(out, {5000, 0, 25 + std::exp(-25.0)});
  EXPECT_GT(element_as_double(out, 1), 0);
}

TEST_P(Rows, CrossEntropyIsTheNegativeLogProbabilityAndZeroForIgnoredLabels) {
  const Tensor out = zeros({3});
  backend().run(CrossEntropy{
      .logits = tensor({3, 3}, {1, 2, 3, 5, 5, 5, 1000, 0, 0}), .labels = integers({0, -100, 1}), .out = out});
  expect(out, {std::log(std::exp(1.0) + std::exp(2.0) + std::exp(3.0)) - 1, 0, 1000});
}

}  // namespace
}  // namespace mamba2
