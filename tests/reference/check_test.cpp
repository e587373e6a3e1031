#include "mamba2/ops/check.h"

#include "operands.h"

/// What `Backend::run` refuses, by the message: op, operand, found, expected.
namespace mamba2 {
namespace {

using ::testing::HasSubstr;

class Check : public test::Operands {
 protected:
  template <class Op>
  std::string error_of(const Op& op) {
    try {
      check(op, backend());
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  DType other() const { return GetParam() == DType::f32 ? DType::f64 : DType::f32; }
  HostTensor wrong_dtype(const Shape& shape) const { return {other(), shape}; }
};
INSTANTIATE_TEST_SUITE_P(Precision, Check, ::testing::Values(DType::f32, DType::f64), test::precision_name);

TEST_P(Check, NamesOpOperandFoundAndExpectedShape) {
  EXPECT_EQ(error_of(RmsNorm{.x = zeros({2, 3}), .weight = zeros({4}), .out = zeros({2, 3})}),
            "RmsNorm: weight is (4), expected (3)");
  EXPECT_EQ(error_of(RmsNorm{.x = zeros({3}), .weight = zeros({3}), .out = zeros({3})}),
            "RmsNorm: x is (3), expected 2 dimensions");
}

TEST_P(Check, RefusesActivationsOfAnotherDtype) {
  const HostTensor x = wrong_dtype({2, 3});
  EXPECT_EQ(error_of(Activate{.x = x, .out = zeros({2, 3})}),
            "Activate: x is " + std::string(name(other())) + ", expected " + std::string(name(GetParam())));
}

TEST_P(Check, RefusesAnInnermostDimensionWithGaps) {
  Tensor x = zeros({3, 2});
  x.shape = Shape{2, 3};
  x.strides = {1, 2};
  EXPECT_THAT(error_of(Activate{.x = x, .out = zeros({2, 3})}), HasSubstr("x has stride 2 in its innermost dimension"));
}

TEST_P(Check, RefusesAnotherDevice) {
  Tensor x = zeros({2, 3});
  x.device.kind = DeviceKind::cuda;
  EXPECT_THAT(error_of(Activate{.x = x, .out = zeros({2, 3})}),
              HasSubstr("x lies on another device than the backend 'reference'"));
}

TEST_P(Check, RefusesALinearWithoutWeightOrOfAnotherWidth) {
  const Tensor x = zeros({2, 3}), out = zeros({2, 4});
  EXPECT_EQ(error_of(Linear{.x = x, .weight = nullptr, .bias = {}, .add = {}, .out = out}),
            "Linear: the weight is absent");
  const PreparedWeight* w = weight({4, 2}, std::vector<double>(8));
  EXPECT_EQ(error_of(Linear{.x = x, .weight = w, .bias = {}, .add = {}, .out = out}),
            "Linear: weight is (4, 2), expected (4, 3)");
}

TEST_P(Check, RefusesABatchThatDoesNotCountTheTokens) {
  CausalConv op{.x = zeros({3, 1}),
                .weight = zeros({1, 2}),
                .bias = {},
                .batch = batch({2}),
                .conv_state = zeros({1, 1, 1}),
                .out = zeros({3, 1})};
  EXPECT_EQ(error_of(op), "CausalConv: the batch holds 2 tokens, expected 3");
  op.batch = batch({3});
  op.batch.slots = integers({0, 1});
  EXPECT_EQ(error_of(op), "CausalConv: batch.slots is (2), expected (1)");
  op.batch = batch({3});
  op.conv_state = zeros({1, 1, 2});
  EXPECT_EQ(error_of(op), "CausalConv: conv_state is (1, 1, 2), expected (1, 1, 1)");
}

TEST_P(Check, RefusesGroupsThatDoNotDivideTheHeads) {
  const SsdScan op{.x = zeros({1, 3, 1}),
                   .dt = zeros({1, 3}),
                   .A_log = zeros({3}),
                   .B = zeros({1, 2, 1}),
                   .C = zeros({1, 2, 1}),
                   .D = zeros({3}),
                   .batch = batch({1}),
                   .ssm_state = zeros({1, 3, 1, 1}),
                   .out = zeros({1, 3, 1})};
  EXPECT_EQ(error_of(op), "SsdScan: n_groups is 2, expected a divisor of num_heads 3");
}

TEST_P(Check, RefusesPendingInputsThatDoNotFitTheirStates) {
  const Tensor state = zeros({2, 4, 8, 16});
  const PendingInputs fits{.input = zeros({2, 4, 3, 8}),
                           .B = zeros({2, 2, 3, 16}),
                           .log_decay = zeros({2, 4, 3}),
                           .since = integers({0, 0})};
  auto error_with = [&](auto&& change) {
    PendingInputs pending = fits;
    change(pending);
    return error_of(SettleState{.pending = pending, .ssm_state = state, .slots = integers({1}), .ends = integers({5})});
  };
  EXPECT_EQ(error_with([](PendingInputs&) {}), "no error");
  EXPECT_EQ(error_with([&](PendingInputs& p) { p.since = integers({0}); }),
            "SettleState: pending.since is (1), expected (2)");
  EXPECT_EQ(error_with([&](PendingInputs& p) {
              p.input = zeros({2, 4, 3, 9});
            }),
            "SettleState: pending.input is (2, 4, 3, 9), expected (2, 4, 3, 8)");
  EXPECT_EQ(error_with([&](PendingInputs& p) {
              p.B = zeros({2, 3, 3, 16});
            }),
            "SettleState: pending.B has 3 groups, expected a divisor of num_heads 4");
  EXPECT_EQ(error_with([&](PendingInputs& p) {
              p.log_decay = zeros({2, 4, 2});
            }),
            "SettleState: pending.log_decay is (2, 4, 2), expected (2, 4, 3)");
  EXPECT_EQ(
      error_of(SettleState{.pending = fits, .ssm_state = state, .slots = integers({1, 0}), .ends = integers({5})}),
      "SettleState: ends is (1), expected (2)");
}

TEST_P(Check, ABackendThatLeavesNothingPendingSaysSo) {
  const SettleState op{.pending = {.input = zeros({1, 1, 3, 8}),
                                   .B = zeros({1, 1, 3, 16}),
                                   .log_decay = zeros({1, 1, 3}),
                                   .since = integers({0})},
                       .ssm_state = zeros({1, 1, 8, 16}),
                       .slots = integers({0}),
                       .ends = integers({5})};
  try {
    backend().run(op);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the reference backend leaves no inputs pending");
  }
}

TEST_P(Check, RefusesADecayOfAnotherDtype) {
  const HostTensor A_log = wrong_dtype({1});
  const SsdScan op{.x = zeros({1, 1, 1}),
                   .dt = zeros({1, 1}),
                   .A_log = A_log,
                   .B = zeros({1, 1, 1}),
                   .C = zeros({1, 1, 1}),
                   .D = zeros({1}),
                   .batch = batch({1}),
                   .ssm_state = zeros({1, 1, 1, 1}),
                   .out = zeros({1, 1, 1})};
  EXPECT_THAT(error_of(op), HasSubstr("SsdScan: A_log is " + std::string(name(other()))));
}

TEST_P(Check, RefusesAGroupSizeThatDoesNotDivideTheWidth) {
  EXPECT_EQ(error_of(GatedRmsNorm{
                .y = zeros({1, 4}), .z = zeros({1, 4}), .weight = zeros({4}), .group_size = 3, .out = zeros({1, 4})}),
            "GatedRmsNorm: group_size is 3, expected a divisor of 4");
}

TEST_P(Check, RefusesRotaryDimensionsThatAreOddOrTooMany) {
  const Tensor x = zeros({1, 1, 4});
  for (const std::int64_t dim : {3, 6, -2})
    EXPECT_EQ(error_of(Rope{.x = x, .batch = batch({1}), .parameters = {.rotary_dim = dim}}),
              "Rope: rotary_dim is " + std::to_string(dim) + ", expected an even number from 0 to head_dim 4");
}

TEST_P(Check, RefusesKeyHeadsThatDoNotDivideTheQueryHeads) {
  const Attention op{.q = zeros({1, 3, 2}),
                     .k = zeros({1, 2, 2}),
                     .v = zeros({1, 2, 2}),
                     .batch = batch({1}),
                     .k_cache = zeros({1, 4, 2, 2}),
                     .v_cache = zeros({1, 4, 2, 2}),
                     .out = zeros({1, 3, 2})};
  EXPECT_EQ(error_of(op), "Attention: num_key_value_heads is 2, expected a divisor of 3");
}

TEST_P(Check, RefusesRowsAndLabelsThatAreNoIntegers) {
  EXPECT_THAT(error_of(GatherRows{.x = zeros({2, 2}), .rows = zeros({1}), .out = zeros({1, 2})}),
              HasSubstr("GatherRows: rows is"));
  EXPECT_THAT(error_of(CrossEntropy{.logits = zeros({1, 2}), .labels = zeros({1}), .out = zeros({1})}),
              HasSubstr("CrossEntropy: labels is"));
}

TEST_P(Check, RefusesAMatrixOfIntegers) {
  const HostTensor integers(DType::i32, {2, 2});
  EXPECT_THROW(backend().prepare(WeightRole::linear, integers, DType::f32), Error);
}

TEST(Reference, ComputesInF32OrF64Alone) {
  EXPECT_THROW(make_reference_backend(DType::bf16), Error);
  EXPECT_THROW(make_reference_backend(DType::f64, DType::f32), Error);
}

}  // namespace
}  // namespace mamba2
