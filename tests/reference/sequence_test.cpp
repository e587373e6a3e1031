#include "operands.h"

/// Attention and rotary embeddings, whose results depend on positions, against their formulas written out.
namespace mamba2 {
namespace {

class Sequence : public test::Operands {};
INSTANTIATE_TEST_SUITE_P(Precision, Sequence, ::testing::Values(DType::f32, DType::f64), test::precision_name);

/// Element i of the first rotary_dim / 2 turns with element i + rotary_dim / 2.
std::vector<double> turned(const std::vector<double>& head, double position, double theta, std::size_t rotary_dim) {
  std::vector<double> out = head;
  const std::size_t half = rotary_dim / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = position / std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
    out[i] = head[i] * std::cos(angle) - head[i + half] * std::sin(angle);
    out[i + half] = head[i + half] * std::cos(angle) + head[i] * std::sin(angle);
  }
  return out;
}

std::vector<double> joined(const std::vector<std::vector<double>>& parts) {
  std::vector<double> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

const std::vector<double> head{1, 2, 3, 4, 5};  // head_dim 5, of which 4 turn

TEST_P(Sequence, RopeTurnsPairsByPositionAndLeavesTheRest) {
  const Tensor x = tensor({3, 1, 5}, joined({head, head, head}));
  backend().run(Rope{.x = x, .batch = batch({2, 1}, {0, 1}, {7, 0}), .parameters = {.rotary_dim = 4, .theta = 100}});
  expect(x, joined({turned(head, 7, 100, 4), turned(head, 8, 100, 4), head}));
}

TEST_P(Sequence, LinearScalingDividesPositions) {
  const Tensor x = tensor({2, 1, 5}, joined({head, head}));
  backend().run(Rope{.x = x,
                     .batch = batch({2}),
                     .parameters = {.rotary_dim = 4, .theta = 100, .scaling = RopeScaling::linear, .factor = 4}});
  expect(x, joined({head, turned(head, 0.25, 100, 4)}));
}

TEST_P(Sequence, DynamicScalingRaisesThetaForSequencesPastTheTrainedLength) {
  const RopeParameters parameters{
      .rotary_dim = 4, .theta = 100, .scaling = RopeScaling::dynamic, .factor = 2, .max_position_embeddings = 2};
  const Tensor x = tensor({5, 1, 5}, joined({head, head, head, head, head}));
  backend().run(Rope{.x = x, .batch = batch({2, 3}), .parameters = parameters});
  const double raised = 100 * std::pow(2.0 * 3 / 2 - 1, 4.0 / 2);
  expect(x, joined({head, turned(head, 1, 100, 4), head, turned(head, 1, raised, 4), turned(head, 2, raised, 4)}));
}

TEST_P(Sequence, AttentionSharesKeysAmongGroupsOfHeadsAndLooksAtNothingLater) {
  // two tokens, two query heads of width 1 on one key head; scale 0.5
  const Tensor q = tensor({2, 2, 1}, {1, 2, 3, -1}), k = tensor({2, 1, 1}, {0.5, 1.5}), v = tensor({2, 1, 1}, {10, 20});
  const Tensor keys = zeros({1, 4, 1, 1}), values = zeros({1, 4, 1, 1}), out = zeros({2, 2, 1});
  backend().run(Attention{
      .q = q, .k = k, .v = v, .scale = 0.5, .batch = batch({2}), .k_cache = keys, .v_cache = values, .out = out});
  auto mixed = [](double query) {
    const double a = std::exp(0.5 * query * 0.5), b = std::exp(0.5 * query * 1.5);
    return (10 * a + 20 * b) / (a + b);
  };
  expect(out, {10, 10, mixed(3), mixed(-1)});
  expect(keys, {0.5, 1.5, 0, 0});
  expect(values, {10, 20, 0, 0});
}

TEST_P(Sequence, AttentionGoesOnFromTheKeysOfItsOwnSlot) {
  const Tensor keys = tensor({2, 2, 1, 1}, {9, 9, 1, 0}), values = tensor({2, 2, 1, 1}, {9, 9, 4, 0});
  const Tensor out = zeros({1, 1, 1});
  backend().run(Attention{.q = tensor({1, 1, 1}, {1}),
                          .k = tensor({1, 1, 1}, {1}),
                          .v = tensor({1, 1, 1}, {8}),
                          .scale = 1,
                          .batch = batch({1}, {1}, {1}),
                          .k_cache = keys,
                          .v_cache = values,
                          .out = out});
  expect(out, {6});
  expect(keys, {9, 9, 1, 1});
}

TEST_P(Sequence, AttentionDoesNotOverflowOnLargeScores) {
  const Tensor out = zeros({2, 1, 1});
  backend().run(Attention{.q = tensor({2, 1, 1}, {1000, 1000}),
                          .k = tensor({2, 1, 1}, {1, 2}),
                          .v = tensor({2, 1, 1}, {3, 5}),
                          .scale = 1,
                          .batch = batch({2}),
                          .k_cache = zeros({1, 2, 1, 1}),
                          .v_cache = zeros({1, 2, 1, 1}),
                          .out = out});
  expect(out, {3, 5});
}

}  // namespace
}  // namespace mamba2
