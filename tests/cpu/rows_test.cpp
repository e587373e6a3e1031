#include <cmath>

#include "mamba2/base/error.h"
#include "tests/cpu/properties.h"

namespace mamba2::test {
namespace {

// exp and tanh are good to a few units where the plain evaluation's library is nearly exact.
constexpr double functions = 16;
constexpr double foldings = 8;

class RowsOnEveryIsa : public EveryIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, RowsOnEveryIsa, testing::ValuesIn(cpu::available_isas()), isa_name);

constexpr std::initializer_list<std::int64_t> widths{1, 3, 4, 7, 8, 15, 16, 17, 33, 100};

TEST_P(RowsOnEveryIsa, RmsNormAgreesWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::int64_t rows = any_of({0, 1, 5}), width = any_of(widths);
    expect_agreement(backend(), any_seed(), foldings, [&](Operands& o) {
      const RmsNorm op{
          .x = o.rows(rows, width), .weight = o.dense(Shape{width}), .eps = 1e-5, .out = o.unwritten(rows, width)};
      o.backend().run(op);
      o.result(op.out);
    });
  });
}

TEST_P(RowsOnEveryIsa, GatedRmsNormAgreesWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::int64_t rows = any_of({0, 1, 5}), group = any_of(widths), groups = from_to(1, 3);
    const auto order = *rc::gen::element(GateOrder::gate_first, GateOrder::norm_first);
    const auto with_weight = *rc::gen::arbitrary<bool>(), in_place = *rc::gen::arbitrary<bool>();
    expect_agreement(backend(), any_seed(), functions + foldings, [&](Operands& o) {
      const std::int64_t width = group * groups;
      GatedRmsNorm op{.y = o.rows(rows, width), .z = o.rows(rows, width, 3.0), .weight = {}, .out = {}};
      if (with_weight) op.weight = o.dense(Shape{width});
      op.group_size = group;
      op.order = order;
      op.out = in_place ? op.y : o.unwritten(rows, width);
      o.backend().run(op);
      o.result(op.out);
    });
  });
}

TEST_P(RowsOnEveryIsa, ActivationsAgreeWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::int64_t rows = any_of({0, 1, 5}), width = any_of(widths);
    const auto act = static_cast<Activation>(from_to(0, 6));
    const auto gated = *rc::gen::arbitrary<bool>();
    expect_agreement(backend(), any_seed(), functions, [&](Operands& o) {
      const Tensor x = o.rows(rows, width, 4.0), gate = o.rows(rows, width, 4.0), out = o.unwritten(rows, width);
      if (gated)
        o.backend().run(GatedActivation{.value = x, .gate = gate, .act = act, .out = out});
      else
        o.backend().run(Activate{.x = x, .act = act, .out = out});
      o.result(out);
    });
  });
}

/// Largest error of an activation in units in the last place of the true value, over a fine grid.
double units_off(Backend& backend, Activation act, double first, double last, double (*truth)(double)) {
  constexpr std::int64_t count = 200'000;
  const HostTensor x(DType::f32, Shape{1, count}), y(DType::f32, Shape{1, count});
  for (std::int64_t i = 0; i < count; ++i)
    x.span<float>()[static_cast<std::size_t>(i)] =
        static_cast<float>(first + (last - first) * static_cast<double>(i) / static_cast<double>(count - 1));
  backend.run(Activate{.x = x, .act = act, .out = y});
  double most = 0.0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const double want = truth(static_cast<double>(x.span<float>()[i]));
    const double unit = std::ldexp(1.0, std::max(std::ilogb(want), -126) - 23);
    most = std::max(most, std::fabs(static_cast<double>(y.span<float>()[i]) - want) / unit);
  }
  return most;
}

TEST_P(RowsOnEveryIsa, SigmoidIsGoodToFourUnitsOverItsWholeRange) {
  EXPECT_LE(units_off(backend(), Activation::sigmoid, -87, 90, [](double x) { return 1 / (1 + std::exp(-x)); }), 4);
}

TEST_P(RowsOnEveryIsa, TanhIsGoodToFourUnitsOverItsWholeRange) {
  EXPECT_LE(units_off(backend(), Activation::tanh, -20, 20, [](double x) { return std::tanh(x); }), 4);
}

TEST_P(RowsOnEveryIsa, SiluOfHugeNumbersIsFinite) {
  const HostTensor x(DType::f32, Shape{1, 4}), y(DType::f32, Shape{1, 4});
  const std::array<float, 4> values{-1e30F, -200.0F, 200.0F, 1e30F};
  std::copy(values.begin(), values.end(), x.span<float>().begin());
  backend().run(Activate{.x = x, .act = Activation::silu, .out = y});
  EXPECT_EQ(std::vector<float>(y.span<float>().begin(), y.span<float>().end()),
            (std::vector<float>{-0.0F, -0.0F, 200.0F, 1e30F}));
}

TEST_P(RowsOnEveryIsa, GatherRowsCopiesRows) {
  for_random_cases([&] {
    const std::int64_t width = from_to(1, 30);
    expect_agreement(backend(), any_seed(), 0, [&](Operands& o) {
      const GatherRows op{.x = o.rows(4, width), .rows = o.integers({3, 3, 0}), .out = o.unwritten(3, width)};
      o.backend().run(op);
      o.result(op.out);
    });
  });
}

TEST_P(RowsOnEveryIsa, GatherRowsRejectsARowPastTheEnd) {
  Operands o(backend(), 0, Values::as_drawn);
  const GatherRows op{.x = o.rows(4, 3), .rows = o.integers({4}), .out = o.unwritten(1, 3)};
  EXPECT_THROW(o.backend().run(op), Error);
}

TEST_P(RowsOnEveryIsa, CrossEntropyAgreesWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::int64_t classes = any_of(widths);
    const double spread = *rc::gen::element(0.1, 1.0, 30.0);
    expect_agreement(backend(), any_seed(), functions, [&](Operands& o) {
      const std::vector<std::int32_t> labels{static_cast<std::int32_t>(classes - 1), -100, 0};
      // The error is in proportion to the logits, which the loss may be much smaller than: they are compared along.
      const Tensor logits = o.rows(3, classes, spread);
      const CrossEntropy op{.logits = logits, .labels = o.integers(labels), .out = o.dense(Shape{3})};
      o.backend().run(op);
      o.result(op.out);
      o.result(logits);
    });
  });
}

TEST_P(RowsOnEveryIsa, ZeroAndCopyLeaveTheColumnsBesideAViewAlone) {
  Operands o(backend(), 3, Values::as_drawn);
  const Tensor whole = o.dense(Shape{3, 8});
  const HostTensor before(DType::f32, whole.shape);
  backend().download(whole, before);
  backend().zero(whole.slice(1, 2, 4));
  for (std::int64_t i = 0; i < 24; ++i) {
    const bool inside = i % 8 >= 2 && i % 8 < 6;
    EXPECT_EQ(whole.as<float>()[i], inside ? 0.0F : before.span<float>()[static_cast<std::size_t>(i)]);
  }
}

}  // namespace
}  // namespace mamba2::test
