// Products on the CUDA backend.
#include "mamba2/cuda/linear.h"
#include "tests/cuda/backend_support.h"

namespace mamba2::test {
namespace {

struct Product {
  std::int64_t rows, in, out;
  DType held;
  bool bias, add;
};

Body product_of(const Product& p) {
  return [p](Operands& o) {
    Linear op{
        .x = o.rows(p.rows, p.in), .weight = o.weight(p.out, p.in, p.held, p.held), .bias = {}, .add = {}, .out = {}};
    if (p.bias) op.bias = o.dense(Shape{p.out});
    if (p.add) op.add = o.rows(p.rows, p.out);
    op.out = o.unwritten(p.rows, p.out);
    o.backend().run(op);
    o.result(op.out);
  };
}

/// The same with rows that the library and vector loads take.
Body aligned_product_of(const Product& p) {
  return [p](Operands& o) {
    Linear op{.x = o.dense(Shape{p.rows, p.in}),
              .weight = o.weight(p.out, p.in, p.held, p.held),
              .bias = {},
              .add = {},
              .out = o.dense(Shape{p.rows, p.out})};
    if (p.bias) op.bias = o.dense(Shape{p.out});
    if (p.add) op.add = op.out;
    o.backend().run(op);
    o.result(op.out);
  };
}

std::string text_of(const Product& p) {
  return fmt::format("{} x {} x {} {}{}{}", p.rows, p.in, p.out, name(p.held), p.bias ? " bias" : "",
                     p.add ? " add" : "");
}

TEST_F(CudaBackendOps, LinearOfFewRows) {
  for (const DType held : {DType::f32, DType::bf16, DType::f16})
    for (const std::int64_t rows : {1, 2, 3, 4, 5, 8})
      for (const std::int64_t in : {1, 31, 64, 100, 264, 768, 2560})
        for (const std::int64_t out : {1, 5, 131}) {
          const Product p{rows, in, out, held, in % 2 == 0, out % 2 == 1};
          agree(text_of(p) + " gaps", exact(), foldings, product_of(p));
          agree(text_of(p), exact(), foldings, aligned_product_of(p));
        }
}

TEST_F(CudaBackendOps, LinearOfManyRowsWithoutTheLibrary) {
  for (const DType held : {DType::f32, DType::bf16, DType::f16})
    for (const std::int64_t rows : {9, 63, 64, 65, 130})
      for (const std::int64_t in : {3, 64, 100})
        for (const std::int64_t out : {1, 64, 130}) {
          const Product p{rows, in, out, held, in % 2 == 0, out % 2 == 0};
          agree(text_of(p), exact(), foldings, product_of(p));
        }
}

TEST_F(CudaBackendOps, LinearOfManyRowsInF32ByTheLibrary) {
  for (const std::int64_t rows : {9, 64, 200})
    for (const bool bias : {false, true})
      for (const bool add : {false, true}) {
        const Product p{rows, 256, 512, DType::f32, bias, add};
        agree(text_of(p), exact(), foldings, aligned_product_of(p));
      }
}

TEST_F(CudaBackendOps, LinearOfManyRowsIn16BitsByTheLibrary) {
  for (const DType held : {DType::bf16, DType::f16})
    for (const std::int64_t rows : {9, 64, 200})
      for (const bool bias : {false, true})
        for (const bool add : {false, true}) {
          const Product p{rows, 256, 515, held, bias, add};
          agree(text_of(p), fast(), foldings + (held == DType::bf16 ? bf16_inputs : f16_inputs), aligned_product_of(p));
        }
}

TEST_F(CudaBackendOps, LinearInF16TakesRowsPastItsRange) {
  agree("9 x 256 x 512 of 1e6", fast(), foldings + f16_inputs, [&](Operands& o) {
    const Tensor x = o.dense(Shape{9, 256}, 1e6), out = o.unwritten(9, 512);
    o.backend().run(
        Linear{.x = x, .weight = o.weight(512, 256, DType::f16, DType::f16), .bias = {}, .add = {}, .out = out});
    o.result(out);
  });
}

constexpr std::initializer_list<DType> packed_dtypes{DType::q8_0, DType::q4_0, DType::q4_k, DType::q6_k};

Body quantised_product_of(const Product& p) {
  return [p](Operands& o) {
    Linear op{.x = o.dense(Shape{p.rows, p.in}),
              .weight = o.weight(p.out, p.in, DType::f32, p.held),
              .bias = {},
              .add = {},
              .out = o.unwritten(p.rows, p.out)};
    if (p.bias) op.bias = o.dense(Shape{p.out});
    if (p.add) op.add = o.dense(Shape{p.rows, p.out});
    o.backend().run(op);
    o.result(op.out);
  };
}

TEST_F(CudaBackendOps, LinearOfQuantisedWeightsInF32) {
  // few rows always, all of them where nothing may be rounded; past packed_rows_limit by f32 weights
  for (const DType held : packed_dtypes)
    for (const std::int64_t rows : {1, 2, 5, 8, 9, 16, 17, 65})
      for (const std::int64_t in : {256, 2560})
        for (const std::int64_t out : {1, 7, 515}) {
          const Product p{rows, in, out, held, out % 2 == 0, out % 2 == 1};
          agree(text_of(p), exact(), foldings, quantised_product_of(p));
        }
}

TEST_F(CudaBackendOps, LinearOfQuantisedWeightsWithRowsOfX) {
  // rows that are no multiple of 256, unaligned rows of x
  for (const DType held : {DType::q8_0, DType::q4_0})
    for (const std::int64_t rows : {1, 4, 70})
      for (const std::int64_t in : {32, 96, 288, 1504})
        agree(text_of(Product{rows, in, 131, held, false, false}), exact(), foldings, [&](Operands& o) {
          const Tensor x = o.rows(rows, in), out = o.unwritten(rows, 131);
          const PreparedWeight* weight = o.weight(131, in, DType::f32, held);
          o.backend().run(Linear{.x = x, .weight = weight, .bias = {}, .add = {}, .out = out});
          o.result(out);
        });
}

TEST_F(CudaBackendOps, LinearOfQuantisedWeightsInBf16) {
  // x rounded to bf16; past packed_rows_limit the weights too, with what both roundings have together
  constexpr double both = bf16_inputs * 0x1p-9;
  for (const DType held : packed_dtypes)
    for (const std::int64_t rows : {9, 16, 17, 24, 200})
      for (const bool add : {false, true}) {
        const Product p{rows, 512, 515, held, !add, add};
        const double roundings = rows <= cuda::packed_rows_limit ? bf16_inputs : 2 * bf16_inputs + both;
        agree(text_of(p), fast(), foldings + roundings, quantised_product_of(p));
      }
}

TEST_F(CudaBackendOps, QuantisedWeightsKeepTheirBytesOnTheDevice) {
  const HostTensor zeros(DType::f32, Shape{1024, 512});
  for (const DType held : {DType::q8_0, DType::q4_0, DType::q4_k})
    EXPECT_EQ(exact().prepare(WeightRole::linear, zeros, held)->bytes(), bytes_for(held, 1024 * 512)) << name(held);
  EXPECT_EQ(exact().prepare(WeightRole::linear, zeros, DType::q6_k)->bytes(),
            bytes_for(DType::q6_k, 1024 * 512) / 15 * 16);
}

TEST_F(CudaBackendOps, ARowsBitsDoNotDependOnTheOtherRowsOfAQuantisedProduct) {
  for (const DType held : packed_dtypes)
    for (const std::int64_t rows : {2, 3, 5, 8})
      for (const std::int64_t in : {512, 2560, 5120}) {
        auto product = [&](bool one_by_one) {
          return results_of(exact(), 5, [&](Operands& o) {
            const Tensor x = o.dense(Shape{rows, in}), y = o.unwritten(rows, 70);
            const PreparedWeight* weight = o.weight(70, in, DType::f32, held);
            const std::int64_t step = one_by_one ? 1 : rows;
            for (std::int64_t i = 0; i < rows; i += step)
              o.backend().run(Linear{
                  .x = x.slice(0, i, step), .weight = weight, .bias = {}, .add = {}, .out = y.slice(0, i, step)});
            o.result(y);
          });
        };
        EXPECT_EQ(product(true), product(false)) << name(held) << " " << rows << " x " << in;
      }
}

TEST_F(CudaBackendOps, ARowsBitsDoNotDependOnTheOtherRowsWhereTheyAreFew) {
  for (const std::int64_t rows : {2, 3, 4, 7, 8})
    for (const std::int64_t in : {100, 768, 5120, 8192}) {
      auto product = [&](bool one_by_one) {
        return results_of(exact(), 5, [&](Operands& o) {
          const Tensor x = o.dense(Shape{rows, in}), y = o.unwritten(rows, 70);
          const PreparedWeight* weight = o.weight(70, in, DType::bf16, DType::bf16);
          const std::int64_t step = one_by_one ? 1 : rows;
          for (std::int64_t i = 0; i < rows; i += step)
            o.backend().run(
                Linear{.x = x.slice(0, i, step), .weight = weight, .bias = {}, .add = {}, .out = y.slice(0, i, step)});
          o.result(y);
        });
      };
      EXPECT_EQ(product(true), product(false)) << rows << " x " << in;
    }
}

}  // namespace
}  // namespace mamba2::test
