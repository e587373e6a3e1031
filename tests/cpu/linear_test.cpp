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

TEST_P(LinearOnEveryIsa, LinearAgreesWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::int64_t rows = any_of({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 97}), in = any_of({1, 3, 8, 17, 64, 100, 300});
    const std::int64_t out = any_of({1, 2, 4, 5, 31, 64, 130});
    const DType stored = *rc::gen::element(DType::f32, DType::bf16, DType::f16, DType::f64), held = any_weight_dtype();
    const auto with_bias = *rc::gen::arbitrary<bool>(), with_add = *rc::gen::arbitrary<bool>();
    expect_agreement(backend(), any_seed(), foldings, [&](Operands& o) {
      Linear op{.x = o.rows(rows, in), .weight = o.weight(out, in, stored, held), .bias = {}, .add = {}, .out = {}};
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
        const Linear op{.x = o.rows(rows, in),
                        .weight = o.weight(6, in, DType::bf16, DType::bf16),
                        .bias = {},
                        .add = {},
                        .out = o.unwritten(rows, 6)};
        o.backend().run(op);
        o.result(op.out);
      });
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
    const std::int64_t rows = from_to(2, 40), in = any_of({5, 64, 100, 1500}), out = any_of({3, 4, 70});
    const std::uint64_t seed = any_seed();
    const DType held = any_weight_dtype();
    auto product = [&](bool one_by_one) {
      return results_of(backend(), seed, [&](Operands& o) {
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
