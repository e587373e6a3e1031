// The product by tiles with tiles of plain loops in the place of the processor's, so that its layout is tested
// everywhere.  Where the processor has them, LinearOnEveryIsa runs it on its own.
#define MAMBA2_CPU_ISA emulated_tiles
#include "mamba2/cpu/kernels/amx_tiles.h"

#include <cmath>
#include <vector>

#include "mamba2/tensor/tensor.h"
#include "tests/cpu/properties.h"

namespace mamba2::cpu::emulated_tiles {
namespace {

float widened(std::uint16_t bits) {
  return to_float(bf16{bits});
}

/// TDPBF16PS as Intel's manual gives it: the even and the odd columns are summed apart, then added to the tile.
class EmulatedTiles {
 public:
  void clear(const std::uint16_t*) {
    for (float& sum : sums_) sum = 0;
  }
  void add(const std::uint16_t* w, const std::uint16_t* x0, const std::uint16_t* x1) {
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j)
        for (int row = 0; row < 16; ++row)
          for (int column = 0; column < 16; ++column)
            sums_[(i * 16 + row) * 32 + j * 16 + column] +=
                product(w + i * 512 + row * 32, (j == 0 ? x0 : x1) + column * 2);
  }
  void add_split(const std::uint16_t* w, const std::uint16_t* x0, const std::uint16_t* x1) {
    add(w, x0 + 512, x1 + 512);
    add(w, x0, x1);
    add(w + 1024, x0, x1);
  }
  void store(float* sums) const {
    for (int i = 0; i < 32 * 32; ++i) sums[i] = sums_[i];
  }

 private:
  static float product(const std::uint16_t* row, const std::uint16_t* column) {
    float even = 0, odd = 0;
    for (int k = 0; k < 16; ++k) {
      even = std::fma(widened(row[2 * k]), widened(column[k * 32]), even);
      odd = std::fma(widened(row[2 * k + 1]), widened(column[k * 32 + 1]), odd);
    }
    return even + odd;
  }
  float sums_[32 * 32];
};

/// Small integers, of which every sum is exact.
std::vector<float> integers(std::int64_t count, Random& random) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = std::round(4 * static_cast<float>(random.normal()));
  return values;
}

/// out (m, n) = x (m, k) times the first k columns of w (n, w_stride), all dense.
template <class Kind>
std::vector<float> product_by_tiles(const std::vector<float>& x, const Tensor& w, std::int64_t k,
                                    void (*round)(const RoundTask&), const float* bias, const float* add) {
  const std::int64_t m = static_cast<std::int64_t>(x.size()) / k, n = w.size(0);
  const std::int64_t group = Kind::parts * rounded_elements(k), groups = (m + rows_in_a_group - 1) / rows_in_a_group;
  std::vector<std::uint16_t> rounded(static_cast<std::size_t>(groups * group));
  for (std::int64_t i = 0; i < groups; ++i)
    round({.x = x.data() + i * rows_in_a_group * k,
           .x_stride = k,
           .rows = std::min(rows_in_a_group, m - i * rows_in_a_group),
           .k = k,
           .to = rounded.data() + i * group});
  const std::int64_t space = Kind::parts == 1 ? rounded_scratch(m, n, k) : split_scratch(k);
  std::vector<float> out(static_cast<std::size_t>(m * n)), scratch(static_cast<std::size_t>(space));
  linear_by_tiles<Kind, EmulatedTiles>({.x = rounded.data(),
                                        .m = m,
                                        .w = w.as<std::uint16_t>(),
                                        .w_stride = w.stride(0),
                                        .n = n,
                                        .k = k,
                                        .bias = bias,
                                        .add = add,
                                        .add_stride = n,
                                        .out = out.data(),
                                        .out_stride = n,
                                        .scratch = scratch.data()});
  return out;
}

template <class Kind>
void expect_exact_product_of_integers(DType dtype, void (*round)(const RoundTask&)) {
  test::for_random_cases([&] {
    const std::int64_t m = test::any_of({1, 2, 15, 16, 17, 31, 32, 33, 70}), n = test::any_of({1, 16, 31, 32, 33, 90});
    const std::int64_t k = test::any_of({1, 2, 31, 32, 33, 64, 100}), w_stride = k + test::from_to(0, 3);
    const auto with_bias = *rc::gen::arbitrary<bool>(), with_add = *rc::gen::arbitrary<bool>();
    Random random(test::any_seed());
    const std::vector<float> x = integers(m * k, random), w = integers(n * w_stride, random);
    const std::vector<float> bias = integers(n, random), add = integers(m * n, random);
    const HostTensor weights(dtype, Shape{n, w_stride});
    convert(Tensor(const_cast<float*>(w.data()), DType::f32, Shape{n, w_stride}), weights);
    const std::vector<float> out = product_by_tiles<Kind>(
        x, weights.view(), k, round, with_bias ? bias.data() : nullptr, with_add ? add.data() : nullptr);
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        float want = (with_bias ? bias[static_cast<std::size_t>(j)] : 0) +
                     (with_add ? add[static_cast<std::size_t>(i * n + j)] : 0);
        for (std::int64_t c = 0; c < k; ++c)
          want += x[static_cast<std::size_t>(i * k + c)] * w[static_cast<std::size_t>(j * w_stride + c)];
        ASSERT_EQ(out[static_cast<std::size_t>(i * n + j)], want) << "row " << i << ", column " << j;
      }
  });
}

TEST(AmxTiles, LinearByTilesGivesTheExactProductOfIntegers) {
  expect_exact_product_of_integers<Rounded>(DType::bf16, round_to_tiles);
}

TEST(AmxTiles, LinearByTilesInTwoPartsGivesTheExactProductOfIntegers) {
  expect_exact_product_of_integers<Split>(DType::f16, split_to_tiles);
}

TEST(AmxTiles, TwoPartsLeaveOutA131072thOfEachProductAtMost) {
  const std::int64_t m = 40, n = 33, k = 96;
  Random random(3);
  std::vector<float> x(static_cast<std::size_t>(m * k)), w(static_cast<std::size_t>(n * k));
  // Halves of all exponents, the smallest ones too.
  for (float& value : x) value = static_cast<float>(random.normal());
  for (float& value : w) value = static_cast<float>(random.normal() * std::exp2(-12 + 6 * random.normal()));
  const HostTensor weights(DType::f16, Shape{n, k});
  convert(Tensor(w.data(), DType::f32, Shape{n, k}), weights);
  const std::vector<float> out = product_by_tiles<Split>(x, weights.view(), k, split_to_tiles, nullptr, nullptr);
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double want = 0, magnitude = 0;
      for (std::int64_t c = 0; c < k; ++c) {
        const double product = static_cast<double>(x[static_cast<std::size_t>(i * k + c)]) *
                               static_cast<double>(to_float(weights.view().as<f16>()[j * k + c]));
        want += product;
        magnitude += std::abs(product);
      }
      // and what a sum in f32 of three times as many numbers loses
      const double lost_by_sum = 3 * static_cast<double>(k) * 0x1p-24;
      ASSERT_LE(std::abs(static_cast<double>(out[static_cast<std::size_t>(i * n + j)]) - want),
                (0x1p-17 + lost_by_sum) * magnitude)
          << "row " << i << ", column " << j;
    }
}

TEST(AmxTiles, TwoPartsOfWhatIsNotFiniteAreItAndZero) {
  const float infinity = std::numeric_limits<float>::infinity();
  float values[16] = {infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::max()};
  const TwoParts parts = two_parts(load_words(values, 16));
  EXPECT_EQ(widened(static_cast<std::uint16_t>(parts.large[0])), infinity);
  EXPECT_EQ(widened(static_cast<std::uint16_t>(parts.large[1])), -infinity);
  EXPECT_TRUE(std::isnan(widened(static_cast<std::uint16_t>(parts.large[2]))));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(parts.small[i], 0U) << i;
}

TEST(AmxTiles, RoundingIsToNearestAndKeepsWhatIsNotANumber) {
  Random random(5);
  std::vector<float> values(16);
  for (int round = 0; round < 200; ++round) {
    for (float& value : values) value = static_cast<float>(random.normal() * std::exp2(random.normal() * 20));
    values[0] = std::numeric_limits<float>::quiet_NaN();
    values[1] = std::numeric_limits<float>::infinity();
    values[2] = 0x1.01p0F;  // half way, to the even one
    values[3] = 0x1.03p0F;
    const Words16 got = rounded_to_bf16(load_words(values.data(), 16));
    EXPECT_TRUE(std::isnan(widened(static_cast<std::uint16_t>(got[0]))));
    for (int i = 1; i < 16; ++i)
      EXPECT_EQ(got[i], to_bf16(values[static_cast<std::size_t>(i)]).bits) << values[static_cast<std::size_t>(i)];
  }
}

}  // namespace
}  // namespace mamba2::cpu::emulated_tiles
