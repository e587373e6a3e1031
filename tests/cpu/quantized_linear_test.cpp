#include <cmath>
#include <cstring>
#include <limits>

#include "mamba2/base/error.h"
#include "mamba2/tensor/quantized.h"
#include "tests/cpu/properties.h"

namespace mamba2::test {
namespace {

constexpr double eps = 0x1p-24;  // of one rounding to f32

class QuantizedLinear : public testing::TestWithParam<std::tuple<cpu::Isa, DType>> {
 protected:
  Backend& backend() { return cpu_with(std::get<0>(GetParam())); }
  DType dtype() const { return std::get<1>(GetParam()); }
  std::int64_t block() const { return block_elements(dtype()); }
};
class WrittenQuantizedLinear : public QuantizedLinear {};

std::string case_name(const testing::TestParamInfo<std::tuple<cpu::Isa, DType>>& tested) {
  return std::string(cpu::name(std::get<0>(tested.param))) + "_" + std::string(name(std::get<1>(tested.param)));
}
INSTANTIATE_TEST_SUITE_P(EveryIsaAndDType, QuantizedLinear,
                         testing::Combine(testing::ValuesIn(cpu::available_isas()),
                                          testing::Values(DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0,
                                                          DType::q5_1, DType::q4_k, DType::q5_k, DType::q6_k)),
                         case_name);
INSTANTIATE_TEST_SUITE_P(EveryIsaAndDType, WrittenQuantizedLinear,
                         testing::Combine(testing::ValuesIn(cpu::available_isas()),
                                          testing::Values(DType::q8_0, DType::q4_0, DType::q4_k, DType::q6_k)),
                         case_name);

/// Where a block's scale lies, and the scale of its minima, if any.
std::vector<std::size_t> f16_fields(DType dtype) {
  switch (dtype) {
    case DType::q8_0:
    case DType::q4_0:
    case DType::q5_0: return {0};
    case DType::q6_k: return {208};
    default: return {0, 2};
  }
}

std::span<std::uint8_t> bytes_of(const HostTensor& weight) {
  return {weight.view().as<std::uint8_t>(), weight.view().bytes()};
}

void set_f16(const HostTensor& weight, std::size_t block, std::size_t field, f16 value) {
  const std::size_t at = block * bytes_per_block(weight.view().dtype) + f16_fields(weight.view().dtype)[field];
  std::memcpy(bytes_of(weight).data() + at, &value, sizeof value);
}

template <class Scale>
void set_scales(const HostTensor& weight, Scale&& scale) {
  for (std::size_t block = 0; block < bytes_of(weight).size() / bytes_per_block(weight.view().dtype); ++block)
    for (std::size_t field = 0; field < f16_fields(weight.view().dtype).size(); ++field)
      set_f16(weight, block, field, to_f16(static_cast<float>(scale())));
}

/// Blocks of any bits, the extremes often, with finite scales.
HostTensor any_blocks(DType dtype, std::int64_t rows, std::int64_t columns, Random& random) {
  HostTensor made(dtype, Shape{rows, columns});
  for (std::uint8_t& byte : bytes_of(made)) {
    constexpr std::uint8_t extremes[] = {0x00, 0xFF, 0x80, 0x7F};
    byte = static_cast<std::uint8_t>(random.next_u32());
    if (random.uniform() < 0.3) byte = extremes[random.next_u32() % 4];
  }
  set_scales(made, [&] { return random.uniform() < 0.1 ? 0.0 : 0.01 * random.normal(); });
  return made;
}

HostTensor any_rows(std::int64_t rows, std::int64_t columns, Random& random) {
  HostTensor made(DType::f32, Shape{rows, columns});
  for (float& value : made.span<float>())
    value = static_cast<float>(random.normal() * std::exp2(std::floor(8 * random.uniform())));
  return made;
}

std::vector<double> dequantized(const HostTensor& weight) {
  std::vector<float> values(static_cast<std::size_t>(weight.view().elements()));
  dequantize(weight.view().dtype, weight.view().as<std::byte>(), values);
  return {values.begin(), values.end()};
}

/// Magnitudes of what a value is the sum of: its share of the scale and its minimum.
std::vector<double> magnitudes(const HostTensor& weight, const std::vector<double>& values) {
  HostTensor scaled(weight.view().dtype, weight.view().shape);
  convert(weight, scaled);
  if (f16_fields(weight.view().dtype).size() == 2)
    for (std::size_t b = 0; b < bytes_of(scaled).size() / bytes_per_block(weight.view().dtype); ++b)
      set_f16(scaled, b, 1, f16{0});
  std::vector<double> made = dequantized(scaled);
  for (std::size_t i = 0; i < made.size(); ++i) made[i] = std::fabs(made[i]) + std::fabs(values[i] - made[i]);
  return made;
}

/// What a row of x is multiplied as, and how far from it at most.
struct Bytes {
  std::vector<double> value, distance;
};

Bytes as_bytes(const float* x, std::int64_t columns, std::int64_t block) {
  Bytes made;
  for (std::int64_t begin = 0; begin < columns; begin += block) {
    float largest = 0;
    for (std::int64_t i = begin; i < begin + block; ++i) largest = std::max(largest, std::fabs(x[i]));
    const float scale = std::max(largest / 127.0F, 0x1p-120F), inverse = 1.0F / scale;
    for (std::int64_t i = begin; i < begin + block; ++i) {
      made.value.push_back(static_cast<double>(scale) * std::nearbyint(static_cast<double>(x[i] * inverse)));
      // half a step, and the roundings of the scale, its inverse and the quotient of at most 127
      made.distance.push_back(static_cast<double>(scale) * (0.5 + 127 * 3 * eps));
    }
  }
  return made;
}

/// A product and what it is held against: sums in double of x's bytes, which integers give exactly, so that only f32's
/// roundings are left; and of x itself, where the bytes' distances come on top.
class Product {
 public:
  Product(HostTensor weight, HostTensor x) : weight_(std::move(weight)), x_(std::move(x)) {}

  void run(Backend& backend, const Tensor& bias, const Tensor& add) {
    const std::int64_t rows = x_.view().size(0), columns = weight_.view().size(0);
    wide_ = HostTensor(DType::f32, Shape{rows, columns + 7});
    for (float& value : wide_.span<float>()) value = std::numeric_limits<float>::quiet_NaN();
    out_ = wide_.view().slice(1, 3, columns);
    bias_ = bias;
    add_ = add;
    const auto prepared = backend.prepare(WeightRole::linear, weight_, weight_.view().dtype);
    backend.run(Linear{.x = x(), .weight = prepared.get(), .bias = bias, .add = add, .out = out_});
  }

  void expect_right() const {
    const std::vector<double> w = dequantized(weight_), sizes = magnitudes(weight_, w);
    for (std::int64_t m = 0; m < x().size(0); ++m) {
      const Bytes bytes = as_bytes(row(m), x().size(1), block_elements(weight_.view().dtype));
      for (std::int64_t n = 0; n < out_.size(1); ++n) expect_right(w, sizes, bytes, m, n);
    }
  }

 private:
  Tensor x() const { return x_.view().slice(1, 2, weight_.view().size(1)); }
  const float* row(std::int64_t m) const { return x().as<float>() + m * x().stride(0); }

  void expect_right(const std::vector<double>& w, const std::vector<double>& sizes, const Bytes& bytes, std::int64_t m,
                    std::int64_t n) const {
    const std::int64_t columns = x().size(1);
    double of_bytes = 0, of_x = 0, size = 0, lost = 0;
    for (std::int64_t k = 0; k < columns; ++k) {
      const auto i = static_cast<std::size_t>(k), at = static_cast<std::size_t>(n * columns + k);
      of_bytes += w[at] * bytes.value[i];
      of_x += w[at] * static_cast<double>(row(m)[k]);
      size += sizes[at] * std::fabs(bytes.value[i]);
      lost += std::fabs(w[at]) * bytes.distance[i];
    }
    double after = 0;
    if (!bias_.empty()) after += static_cast<double>(bias_.as<float>()[n]);
    const double bias = after;
    if (!add_.empty()) after += static_cast<double>(add_.as<float>()[m * add_.stride(0) + n]);
    // a block: two additions to the sum; a term: the product of scales, the integer as f32; a value as dequantised:
    // two; then bias and add
    const std::int64_t whole_blocks = columns / block_elements(weight_.view().dtype);
    const auto blocks = static_cast<double>(whole_blocks);
    const double rounded =
        eps * ((2 * blocks + 4) * size + 2 * (size + std::fabs(bias)) + std::fabs(after)) * (1 + 1e-3);
    const auto got = static_cast<double>(out_.as<float>()[m * out_.stride(0) + n]);
    ASSERT_NEAR(got, of_bytes + after, rounded) << "row " << m << " column " << n;
    ASSERT_NEAR(got, of_x + after, rounded + lost) << "row " << m << " column " << n;
  }

  HostTensor weight_, x_, wide_;
  Tensor out_, bias_, add_;
};

TEST_P(QuantizedLinear, AgreesWithSumsInDouble) {
  for_random_cases([&] {
    const std::int64_t rows = any_of({0, 1, 2, 3, 4, 5, 7, 8, 9, 17});
    const std::int64_t in = block() * any_of({0, 1, 2, 3}), out = any_of({0, 1, 2, 15, 16, 17, 33});
    const bool with_bias = *rc::gen::arbitrary<bool>(), with_add = *rc::gen::arbitrary<bool>();
    Random random(any_seed());
    Product product(any_blocks(dtype(), out, in, random), any_rows(rows, in + 3, random));
    const HostTensor bias = any_rows(1, out, random), add = any_rows(rows, out + 5, random);
    product.run(backend(), with_bias ? bias.view()[0] : Tensor(), with_add ? add.view().slice(1, 1, out) : Tensor());
    product.expect_right();
  });
}

TEST_P(QuantizedLinear, SumsRowsLongerThanAPartOfAPanel) {
  for (const std::int64_t in : {1024, 1280, 4096})
    for (const std::int64_t rows : {1, 11}) {
      Random random(17);
      Product product(any_blocks(dtype(), 18, in, random), any_rows(rows, in + 3, random));
      product.run(backend(), {}, {});
      product.expect_right();
    }
}

TEST_P(QuantizedLinear, HoldsTheLargestSums) {
  constexpr f16 scales[] = {{0x0001}, {0x3C00}, {0x7BFF}, {0xFBFF}};  // the least, 1, the largest, its negative
  constexpr std::uint8_t extremes[] = {0x00, 0x7F, 0x80, 0xFF};
  for (const std::uint8_t byte : extremes)
    for (const f16 scale : scales)
      for (const float value : {1.0F, -1.0F}) {
        HostTensor weight(dtype(), Shape{17, 512}), x(DType::f32, Shape{9, 515});
        for (std::uint8_t& each : bytes_of(weight)) each = byte;
        set_scales(weight, [&] { return to_float(scale); });
        for (float& each : x.span<float>()) each = value;
        Product product(std::move(weight), std::move(x));
        product.run(backend(), {}, {});
        product.expect_right();
      }
}

TEST_P(QuantizedLinear, TakesTheSmallestAndLargestRows) {
  for (const float size : {0.0F, 1e-42F, 1e-36F, 1e30F}) {
    Random random(3);
    HostTensor x = any_rows(3, 2 * block() + 3, random);
    for (float& value : x.span<float>()) value = std::clamp(value, -1.0F, 1.0F) * size;
    Product product(any_blocks(dtype(), 17, 2 * block(), random), std::move(x));
    product.run(backend(), {}, {});
    product.expect_right();
  }
}

/// out (rows, 40) of a weight and x that a seed draws.
std::vector<float> product_of(Backend& backend, DType dtype, std::int64_t rows, std::int64_t in, std::int64_t at_once) {
  Random random(23);
  const HostTensor weight = any_blocks(dtype, 40, in, random), x = any_rows(rows, in, random);
  const HostTensor out(DType::f32, Shape{rows, 40});
  const auto prepared = backend.prepare(WeightRole::linear, weight, dtype);
  for (std::int64_t m = 0; m < rows; m += at_once) {
    const std::int64_t count = std::min(at_once, rows - m);
    backend.run(Linear{.x = x.view().slice(0, m, count),
                       .weight = prepared.get(),
                       .bias = {},
                       .add = {},
                       .out = out.view().slice(0, m, count)});
  }
  const std::span<float> values = out.span<float>();
  return {values.begin(), values.end()};
}

TEST_P(QuantizedLinear, ARowsBitsDependNeitherOnTheOtherRowsNorOnTheThreads) {
  const auto one_thread = make_cpu_backend(1, std::get<0>(GetParam()));
  constexpr std::pair<std::int64_t, std::int64_t> shapes[] = {{13, 256}, {300, 1280}};
  for (const auto& [rows, in] : shapes) {
    const std::vector<float> together = product_of(backend(), dtype(), rows, in, rows);
    EXPECT_EQ(product_of(backend(), dtype(), rows, in, 1), together);
    EXPECT_EQ(product_of(backend(), dtype(), rows, in, 3), together);
    EXPECT_EQ(product_of(*one_thread, dtype(), rows, in, rows), together);
  }
}

TEST_P(QuantizedLinear, WhatIsNotFiniteStaysInItsRowAndColumn) {
  Random random(29);
  const HostTensor weight = any_blocks(dtype(), 20, 2 * block(), random), x = any_rows(9, 2 * block(), random);
  const HostTensor out(DType::f32, Shape{9, 20});
  set_f16(weight, 2 * 5 + 1, 0, f16{0x7C00});  // infinity, in row 5
  set_f16(weight, 2 * 11, 0, f16{0x7E00});     // NaN, in row 11
  x.span<float>()[static_cast<std::size_t>(3 * 2 * block() + 7)] = std::numeric_limits<float>::quiet_NaN();
  x.span<float>()[static_cast<std::size_t>(6 * 2 * block() + 1)] = std::numeric_limits<float>::infinity();
  const auto prepared = backend().prepare(WeightRole::linear, weight, dtype());
  backend().run(Linear{.x = x, .weight = prepared.get(), .bias = {}, .add = {}, .out = out});
  for (std::int64_t m = 0; m < 9; ++m)
    for (std::int64_t n = 0; n < 20; ++n) {
      const bool finite = std::isfinite(out.span<float>()[static_cast<std::size_t>(m * 20 + n)]);
      EXPECT_EQ(finite, m != 3 && m != 6 && n != 5 && n != 11) << m << ", " << n;
    }
}

TEST_P(QuantizedLinear, EmbeddingReadsRowsAsTheyAreDequantised) {
  for (const std::int64_t rows : {1, 16, 21}) {
    Random random(31);
    const HostTensor weight = any_blocks(dtype(), rows, 3 * block(), random);
    const auto prepared = backend().prepare(WeightRole::embedding, weight, dtype());
    Operands o(backend(), 0, Values::as_drawn);
    const std::vector<std::int32_t> ids{0, static_cast<std::int32_t>(rows - 1), static_cast<std::int32_t>(rows / 2), 0};
    const Tensor out = o.unwritten(4, 3 * block());
    backend().run(Embedding{.ids = o.integers(ids), .weight = prepared.get(), .out = out});
    const std::vector<double> want = dequantized(weight);
    for (std::int64_t t = 0; t < 4; ++t)
      for (std::int64_t i = 0; i < 3 * block(); ++i)
        ASSERT_EQ(static_cast<double>(out.as<float>()[t * out.stride(0) + i]),
                  want[static_cast<std::size_t>(ids[static_cast<std::size_t>(t)] * 3 * block() + i)]);
  }
}

TEST_P(QuantizedLinear, EmbeddingRejectsAnIdPastTheVocabulary) {
  Random random(1);
  const HostTensor weight = any_blocks(dtype(), 5, block(), random);
  const auto prepared = backend().prepare(WeightRole::embedding, weight, dtype());
  Operands o(backend(), 0, Values::as_drawn);
  const Embedding op{.ids = o.integers({5}), .weight = prepared.get(), .out = o.unwritten(1, block())};
  EXPECT_THROW(backend().run(op), Error);
}

TEST_P(WrittenQuantizedLinear, PrepareQuantisesAsConvertDoes) {
  Random random(37);
  const HostTensor values = any_rows(19, 2 * block(), random), quantized(dtype(), values.view().shape);
  convert(values, quantized);
  const auto from_values = backend().prepare(WeightRole::embedding, values, dtype());
  const auto from_blocks = backend().prepare(WeightRole::embedding, quantized, dtype());
  Operands o(backend(), 0, Values::as_drawn);
  const Tensor a = o.unwritten(2, 2 * block()), b = o.unwritten(2, 2 * block()), ids = o.integers({0, 18});
  backend().run(Embedding{.ids = ids, .weight = from_values.get(), .out = a});
  backend().run(Embedding{.ids = ids, .weight = from_blocks.get(), .out = b});
  for (std::int64_t t = 0; t < 2; ++t)
    EXPECT_EQ(std::memcmp(a.as<float>() + t * a.stride(0), b.as<float>() + t * b.stride(0),
                          static_cast<std::size_t>(2 * block()) * sizeof(float)),
              0);
}

TEST_P(QuantizedLinear, PrepareRefusesWhatCannotBeQuantised) {
  const HostTensor cut(DType::f32, Shape{3, block() + 8}), values(DType::f32, Shape{40, block()});
  EXPECT_THROW(backend().prepare(WeightRole::linear, cut, dtype()), Error);
  values.span<float>()[static_cast<std::size_t>(33 * block())] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(backend().prepare(WeightRole::linear, values, dtype()), Error);
}

TEST_P(QuantizedLinear, PanelsTakeNoMoreThanTheBlocksOfWholePanelsAndALineEach) {
  const HostTensor weight(dtype(), Shape{48, 3 * block()});
  const std::size_t bytes = backend().prepare(WeightRole::linear, weight, dtype())->bytes();
  EXPECT_GE(bytes, weight.view().bytes());
  EXPECT_LE(bytes, weight.view().bytes() + 3 * 64);
}

}  // namespace
}  // namespace mamba2::test
