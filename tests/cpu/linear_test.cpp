#include <cmath>
#include <limits>

#include "mamba2/base/error.h"
#include "tests/cpu/properties.h"

namespace mamba2::test {
namespace {

// The lanes and column blocks are folded by a few additions that a plain sum does not have.
constexpr double foldings = 8;

class LinearOnEveryIsa : public EveryIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, LinearOnEveryIsa, testing::ValuesIn(cpu::available_isas()), isa_name);

DType any_weight_dtype() {
  return *rc::gen::element(DType::f32, DType::bf16, DType::f16);
}

/// Where the weights are bf16 the backend may round x to bf16: x that is so already must not lose by it.
Tensor exact_rows(Operands& o, std::int64_t rows, std::int64_t width, DType held) {
  return held == DType::bf16 ? o.rows_in_bf16(rows, width) : o.rows(rows, width);
}

TEST_P(LinearOnEveryIsa, LinearAgreesWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::int64_t rows = any_of({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 32, 33, 97});
    const std::int64_t in = any_of({1, 3, 8, 17, 31, 32, 33, 64, 100, 300}),
                       out = any_of({1, 2, 4, 5, 31, 33, 64, 130});
    const DType stored = *rc::gen::element(DType::f32, DType::bf16, DType::f16, DType::f64), held = any_weight_dtype();
    const auto with_bias = *rc::gen::arbitrary<bool>(), with_add = *rc::gen::arbitrary<bool>();
    Backend& tested = *rc::gen::arbitrary<bool>() ? backend() : uniform_cpu_with(GetParam());
    expect_agreement(tested, any_seed(), foldings, [&](Operands& o) {
      Linear op{.x = exact_rows(o, rows, in, held),
                .weight = o.weight(out, in, stored, held),
                .bias = {},
                .add = {},
                .out = {}};
      if (with_bias) op.bias = o.dense(Shape{out});
      if (with_add) op.add = o.rows(rows, out);
      op.out = o.unwritten(rows, out);
      o.backend().run(op);
      o.result(op.out);
    });
  });
}

TEST_P(LinearOnEveryIsa, LinearSumsSeveralBlocksOfColumns) {
  for (const std::int64_t in : {1023, 1024, 1025, 2050, 4096})
    for (const std::int64_t rows : {2, 9})
      expect_agreement(backend(), 7, foldings, [&](Operands& o) {
        const Linear op{.x = o.rows_in_bf16(rows, in),
                        .weight = o.weight(6, in, DType::bf16, DType::bf16),
                        .bias = {},
                        .add = {},
                        .out = o.unwritten(rows, 6)};
        o.backend().run(op);
        o.result(op.out);
      });
}

TEST_P(LinearOnEveryIsa, LinearWithWeightsInBf16ErrsNoMoreThanTwiceWhatRoundingTheInputCosts) {
  for_random_cases([&] {
    const std::int64_t rows = any_of({1, 4, 5, 20, 40}), in = any_of({5, 64, 770, 2100}), out = any_of({3, 40});
    const std::uint64_t seed = any_seed();
    auto product = [&](Backend& on, Tensor (*draw)(Operands&, std::int64_t, std::int64_t)) {
      return results_of(on, seed, [&](Operands& o) {
        const Linear op{.x = draw(o, rows, in),
                        .weight = o.weight(out, in, DType::bf16, DType::bf16),
                        .bias = {},
                        .add = {},
                        .out = o.unwritten(rows, out)};
        o.backend().run(op);
        o.result(op.out);
      });
    };
    auto as_drawn = [](Operands& o, std::int64_t r, std::int64_t width) { return o.rows(r, width); };
    auto rounded = [](Operands& o, std::int64_t r, std::int64_t width) { return o.rows_in_bf16(r, width); };
    const std::vector<double> want = product(truth(), as_drawn);
    const double allowed = 2 * largest_difference(product(plain(), rounded), want);
    EXPECT_LE(largest_difference(product(backend(), as_drawn), want), allowed);
    EXPECT_LE(largest_difference(product(uniform_cpu_with(GetParam()), as_drawn), want), allowed);
  });
}

TEST_P(LinearOnEveryIsa, LinearWithLargeWeightsInF16LosesAtMostA131072thOfEachProduct) {
  constexpr std::int64_t rows = 35, in = 1030,
                         out = 1025;               // a million weights, enough rows, and some of each left over
  constexpr double two_parts = 0x1p-17 / 0x1p-24;  // in units of rounding
  expect_agreement(backend(), 5, foldings + two_parts, [&](Operands& o) {
    const Linear op{.x = o.rows(rows, in),
                    .weight = o.weight(out, in, DType::f16, DType::f16),
                    .bias = {},
                    .add = {},
                    .out = o.unwritten(rows, out)};
    o.backend().run(op);
    o.result(op.out);
  });
}

TEST_P(LinearOnEveryIsa, LinearKeepsWhatIsNotANumberAndWhatIsInfinite) {
  for (const std::int64_t rows : {1, 40}) {
    Operands o(uniform_cpu_with(GetParam()), 3, Values::as_drawn);
    const Tensor x = o.rows(rows, 50), out = o.unwritten(rows, 40);
    x.as<float>()[7] = std::numeric_limits<float>::quiet_NaN();
    if (rows > 1) (x.as<float>() + x.stride(0))[49] = std::numeric_limits<float>::infinity();
    o.backend().run(
        Linear{.x = x, .weight = o.weight(40, 50, DType::bf16, DType::bf16), .bias = {}, .add = {}, .out = out});
    for (std::int64_t n = 0; n < 40; ++n) {
      EXPECT_TRUE(std::isnan(out.as<float>()[n]));
      if (rows == 1) continue;
      EXPECT_TRUE(std::isinf((out.as<float>() + out.stride(0))[n]));
      EXPECT_TRUE(std::isfinite((out.as<float>() + 2 * out.stride(0))[n]));
    }
  }
}

TEST_P(LinearOnEveryIsa, LinearMayAddOntoItsOwnOutput) {
  for (const std::int64_t rows : {1, 20})
    expect_agreement(backend(), 11, foldings, [&](Operands& o) {
      const Tensor x = o.rows(rows, 70), out = o.rows(rows, 90);
      o.backend().run(
          Linear{.x = x, .weight = o.weight(90, 70, DType::f32, DType::f32), .bias = {}, .add = out, .out = out});
      o.result(out);
    });
}

TEST_P(LinearOnEveryIsa, ARowsBitsDoNotDependOnTheOtherRows) {
  for_random_cases([&] {
    const std::int64_t rows = from_to(2, 70), in = any_of({5, 64, 100, 1500, 2100}), out = any_of({3, 4, 8, 70});
    const std::uint64_t seed = any_seed();
    const DType held = any_weight_dtype();
    // in bf16 where the rows are many and in f32 where they are few, unless told otherwise
    Backend& tested = held == DType::bf16 ? uniform_cpu_with(GetParam()) : backend();
    auto product = [&](bool one_by_one) {
      return results_of(tested, seed, [&](Operands& o) {
        const Tensor x = o.rows(rows, in), y = o.unwritten(rows, out);
        const PreparedWeight* weight = o.weight(out, in, held, held);
        const std::int64_t step = one_by_one ? 1 : rows;
        for (std::int64_t i = 0; i < rows; i += step)
          o.backend().run(
              Linear{.x = x.slice(0, i, step), .weight = weight, .bias = {}, .add = {}, .out = y.slice(0, i, step)});
        o.result(y);
      });
    };
    EXPECT_EQ(product(true), product(false));
  });
}

TEST_P(LinearOnEveryIsa, EmbeddingReadsRowsExactly) {
  for_random_cases([&] {
    const std::int64_t width = from_to(1, 40);
    const DType held = any_weight_dtype();
    expect_agreement(backend(), any_seed(), 0, [&](Operands& o) {
      const Embedding op{.ids = o.integers({4, 0, 4, 2}),
                         .weight = o.weight(5, width, DType::f32, held),
                         .out = o.unwritten(4, width)};
      o.backend().run(op);
      o.result(op.out);
    });
  });
}

TEST_P(LinearOnEveryIsa, EmbeddingRejectsAnIdPastTheVocabulary) {
  Operands o(backend(), 0, Values::as_drawn);
  const Embedding op{
      .ids = o.integers({5}), .weight = o.weight(5, 8, DType::f32, DType::f32), .out = o.unwritten(1, 8)};
  EXPECT_THROW(o.backend().run(op), Error);
}

TEST_P(LinearOnEveryIsa, EveryF16IsWidenedExactly) {
  constexpr std::int64_t count = 1 << 16;
  const HostTensor halves(DType::f16, Shape{1, count});
  for (std::int64_t i = 0; i < count; ++i)
    halves.span<std::uint16_t>()[static_cast<std::size_t>(i)] = static_cast<std::uint16_t>(i);
  const auto weight = backend().prepare(WeightRole::embedding, halves, DType::f16);
  Operands o(backend(), 0, Values::as_drawn);
  const Tensor out = o.unwritten(1, count);
  backend().run(Embedding{.ids = o.integers({0}), .weight = weight.get(), .out = out});
  for (std::int64_t i = 0; i < count; ++i) {
    const float want = to_float(f16{static_cast<std::uint16_t>(i)}), got = out.as<float>()[i];
    ASSERT_TRUE(got == want || (got != got && want != want)) << i;
  }
}

TEST_P(LinearOnEveryIsa, WeightsStoredAsHeldAreUsedInPlace) {
  const HostTensor host(DType::bf16, Shape{3, 4});
  EXPECT_EQ(backend().prepare(WeightRole::linear, host, DType::bf16)->bytes(), 0U);
  EXPECT_EQ(backend().prepare(WeightRole::linear, host, DType::f32)->bytes(), 48U);
}

TEST_P(LinearOnEveryIsa, PrepareRejectsIntegers) {
  const HostTensor host(DType::i32, Shape{3, 4});
  EXPECT_THROW(backend().prepare(WeightRole::linear, host, DType::f32), Error);
}

}  // namespace
}  // namespace mamba2::test
