#include "mamba2/tensor/tensor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/tensor/columns.h"

namespace mamba2 {
namespace {

constexpr std::int64_t huge = std::int64_t{1} << 40;

TEST(Shape, RefusesWhatCantBeCounted) {
  EXPECT_THROW((Shape{2, -1}), Error);
  EXPECT_THROW((Shape{huge, huge}), Error);
  EXPECT_THROW((Shape{huge, huge, 0}), Error);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1}), Error);
  EXPECT_EQ((Shape{3, 0, 5}).elements(), 0);
  EXPECT_EQ(Shape{}.elements(), 1);
}

TEST(Tensor, SlicesAndIndexesAreViews) {
  std::vector<float> values(24);
  std::iota(values.begin(), values.end(), 0.0F);
  const Tensor whole(values.data(), DType::f32, {2, 3, 4});
  const Tensor columns = whole.slice(2, 1, 2);
  EXPECT_EQ(columns.shape, (Shape{2, 3, 2}));
  EXPECT_FALSE(columns.contiguous());
  EXPECT_EQ(*columns.as<float>(), 1.0F);
  const Tensor row = whole[1][2];
  EXPECT_EQ(row.shape, (Shape{4}));
  EXPECT_EQ(row.as<float>()[3], 23.0F);
  EXPECT_THROW(whole.slice(1, 2, 2), Error);
  EXPECT_THROW(columns.reshape({12}), Error);
  EXPECT_EQ(whole.reshape({6, 4})[5].as<float>()[0], 20.0F);
}

TEST(Tensor, ColumnsAreSplitWhateverLiesBetweenTheRows) {
  std::vector<float> values(20);
  std::iota(values.begin(), values.end(), 0.0F);
  const Tensor columns = Tensor(values.data(), DType::f32, {2, 10}).slice(1, 3, 6);
  const Tensor split = split_columns(columns, 3, 2);
  EXPECT_EQ(split.shape, (Shape{2, 3, 2}));
  EXPECT_EQ(split[1][2].as<float>()[1], 18.0F);
  EXPECT_THROW(split_columns(columns, 2, 2), Error);
  EXPECT_THROW(split_columns(split, 3, 2), Error);
}

TEST(Convert, CopiesStridedViewsAndRoundsOnce) {
  std::vector<double> values{1.0, 2.0, 3.0, 4.0, 5.0, 6.0};
  Tensor transposed(values.data(), DType::f64, {2, 3});
  transposed.shape = Shape{3, 2};
  transposed.strides = {1, 3};
  const HostTensor out(DType::f32, {3, 2});
  convert(transposed, out);
  EXPECT_EQ(std::vector<float>(out.span<float>().begin(), out.span<float>().end()),
            (std::vector<float>{1, 4, 2, 5, 3, 6}));

  // just above halfway between two bf16 values, by less than a float can tell: rounding twice would go down
  double value = 1.0 + 0x1p-8 + 0x1p-40;
  const HostTensor rounded(DType::bf16, {1});
  convert(Tensor(&value, DType::f64, {1}), rounded);
  EXPECT_EQ(to_float(rounded.span<bf16>()[0]), 1.0F + 0x1p-7F);
}

TEST(Convert, RefusesOtherShapes) {
  const HostTensor a(DType::f32, {2, 3}), b(DType::f32, {3, 2});
  EXPECT_THROW(convert(a, b), Error);
}

}  // namespace
}  // namespace mamba2
