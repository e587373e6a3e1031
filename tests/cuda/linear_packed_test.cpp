// Products with packed weights, and their rows, on the GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/packed_weight.h"
#include "mamba2/cuda/unpack_rows.h"
#include "mamba2/tensor/quantized.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

constexpr DType packed_dtypes[] = {DType::q8_0, DType::q4_0, DType::q4_k, DType::q6_k};

std::size_t at(std::int64_t index) {
  return static_cast<std::size_t>(index);
}

/// Quantised normal values; packed on the device, what they are, and the sum of the magnitudes that a product makes
/// each of: of one number, but q4_k of scale (q - 8) and 8 scale - min.
struct Weight {
  DType dtype;
  int rows, columns;
  std::vector<float> values, magnitudes;
  DeviceArray packed;

  Weight(DType type, int row_count, int column_count, Random& random)
      : dtype(type),
        rows(row_count),
        columns(column_count),
        values(at(std::int64_t{row_count} * column_count)),
        packed(made(random)) {}

 private:
  std::vector<std::byte> made(Random& random) {
    for (float& value : values) value = static_cast<float>(random.normal());
    std::vector<std::byte> blocks(bytes_for(dtype, std::int64_t{rows} * columns));
    quantize(dtype, values, blocks.data());
    dequantize(dtype, blocks.data(), values);
    for (const float value : values) magnitudes.push_back(std::fabs(value));
    if (dtype == DType::q4_k) split_magnitudes(blocks);
    std::vector<std::byte> bits(packed_bytes(dtype, rows, columns));
    pack(Tensor(blocks.data(), dtype, Shape{rows, columns}), bits);
    return bits;
  }
  void split_magnitudes(const std::vector<std::byte>& blocks) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      BlockQ4K block;
      std::memcpy(&block, &blocks[i / 256 * sizeof block], sizeof block);
      const ScalesK scales = unpack_scales(block.scales);
      const std::size_t group = i % 256 / 32;
      const float offset = 8 * to_float(block.d) * static_cast<float>(scales.scale[group]) -
                           to_float(block.dmin) * static_cast<float>(scales.min[group]);
      magnitudes[i] = std::fabs(values[i] - offset) + std::fabs(offset);
    }
  }
};

struct Case {
  DType dtype = DType::q8_0, x_dtype = DType::f32;
  int rows = 1, inputs = 256, outputs = 1;
  bool biased = false, added = false, normed = false;
  int gap = 0;  // elements between rows of x
};

std::string text_of(const Case& c) {
  return std::string(name(c.dtype)) + " " + std::to_string(c.rows) + " x " + std::to_string(c.inputs) + " x " +
         std::to_string(c.outputs) + " of " + std::string(name(c.x_dtype)) + (c.normed ? " normed" : "") +
         (c.gap > 0 ? " with gaps" : "");
}

/// x / rms(x) * gain.
std::vector<double> normed(const std::vector<double>& x, const std::vector<double>& gain, double eps) {
  const std::size_t K = gain.size();
  std::vector<double> all(x.size());
  for (std::size_t first = 0; first < x.size(); first += K) {
    double squares = 0;
    for (std::size_t k = 0; k < K; ++k) squares += x[first + k] * x[first + k];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(K) + eps);
    for (std::size_t k = 0; k < K; ++k) all[first + k] = x[first + k] * scale * gain[k];
  }
  return all;
}

void check_product(const Case& c, Random& random) {
  constexpr double eps = 1e-5;
  const auto K = at(c.inputs), M = at(c.outputs), R = at(c.rows), stride = K + at(c.gap);
  const Weight weight(c.dtype, c.outputs, c.inputs, random);
  const std::vector<double> x = rounded_to(normal_values(R * K, random), c.x_dtype);
  const std::vector<double> gain = rounded_to(normal_values(K, random), DType::f32);
  const std::vector<double> bias = rounded_to(normal_values(M, random), DType::f32);
  const std::vector<double> add = rounded_to(normal_values(R * M, random), DType::f32);
  const std::vector<double> multiplied = c.normed ? normed(x, gain, eps) : x;
  std::vector<double> want(R * M);
  double largest_terms = 0;
  for (std::size_t r = 0; r < R; ++r)
    for (std::size_t m = 0; m < M; ++m) {
      double sum = (c.biased ? bias[m] : 0.0) + (c.added ? add[r * M + m] : 0.0), terms = std::abs(sum);
      for (std::size_t k = 0; k < K; ++k) {
        sum += multiplied[r * K + k] * static_cast<double>(weight.values[m * K + k]);
        terms += std::abs(multiplied[r * K + k]) * static_cast<double>(weight.magnitudes[m * K + k]);
      }
      want[r * M + m] = sum;
      largest_terms = std::max(largest_terms, terms);
    }
  std::vector<double> spaced(R * stride, 1e30);
  for (std::size_t r = 0; r < R; ++r) std::copy_n(&x[r * K], K, &spaced[r * stride]);
  const DeviceArray x_device(spaced, c.x_dtype), gain_device(gain, DType::f32), bias_device(bias, DType::f32);
  const DeviceArray add_device(add, DType::f32), out(R * M * 4), normed_rows(R * K * 4);
  LinearRows product;
  product.rows = c.rows;
  product.inputs = c.inputs;
  product.outputs = c.outputs;
  product.x = {x_device.data(), static_cast<std::int64_t>(stride)};
  product.x_dtype = c.x_dtype;
  product.weight = {weight.packed.data(), c.inputs};
  product.weight_dtype = c.dtype;
  if (c.biased) product.bias = bias_device.floats();
  if (c.added) product.add = {add_device.data(), c.outputs};
  if (c.normed) product.norm = {gain_device.floats(), static_cast<float>(eps), {normed_rows.data(), c.inputs}};
  product.out = {out.data(), c.outputs};
  linear_packed(product, nullptr);
  // Products are exact.  Half a unit of the terms' sum for each addition: one for each term and two for each group of
  // 16 or 32.  A norm's weight is half a unit of each, its squares are summed with half a unit for each and the root
  // halves that.
  const double additions = c.inputs * 1.125 + (c.normed ? 0.5 * c.inputs + 8 : 0) + 8;
  const double bound = 0.5 * additions * epsilon(DType::f32) * largest_terms;
  EXPECT_LE(max_error(out.download(DType::f32), want), bound) << text_of(c);
  if (!c.normed) return;
  double largest = 0;
  for (const double value : multiplied) largest = std::max(largest, std::abs(value));
  EXPECT_LE(max_error(normed_rows.download(DType::f32), multiplied),
            (0.25 * c.inputs + 4) * epsilon(DType::f32) * largest)
      << text_of(c);
}

TEST(LinearPacked, AgreesWithTheProductInDoubleOverRandomShapes) {
  Random random(1);
  for (int i = 0; i < 96; ++i) {
    Case c;
    c.dtype = packed_dtypes[i % 4];
    c.x_dtype = i / 4 % 3 == 2 ? DType::bf16 : DType::f32;
    c.rows = uniform_int(1, i % 7 == 6 ? 60 : 8, random);
    const int step = static_cast<int>(block_elements(c.dtype));
    c.inputs = step * uniform_int(1, 2560 / step, random);
    // fewer than multiprocessors, one tile a block and part of one, many tiles
    c.outputs = i % 16 == 15 ? uniform_int(9000, 9500, random) : uniform_int(1, i % 3 == 0 ? 140 : 3000, random);
    if (c.outputs > 1000) c.inputs = std::max(step, std::min(c.inputs, 256));
    c.biased = uniform_int(0, 1, random) == 0;
    c.added = uniform_int(0, 1, random) == 0;
    c.normed = c.x_dtype == DType::f32 && c.rows <= few_rows_limit && uniform_int(0, 1, random) == 0;
    c.gap = c.x_dtype == DType::f32 && i % 5 == 4 ? 3 : 0;
    check_product(c, random);
  }
}

TEST(LinearPacked, AgreesWithTheProductInDoubleOnTheShapesOfDecode) {
  Random random(2);
  for (const DType dtype : packed_dtypes)
    for (const auto& [inputs, outputs] : {std::pair{768, 3352}, {1536, 768}, {2560, 1056}, {5120, 512}})
      for (const int rows : {1, 8}) {
        Case c;
        c.dtype = dtype;
        c.rows = rows;
        c.inputs = inputs;
        c.outputs = outputs;
        c.added = true;
        c.normed = inputs % 768 != 0;
        check_product(c, random);
      }
}

TEST(LinearPacked, WritesNothingElse) {
  Random random(3);
  for (const DType dtype : packed_dtypes) {
    const Weight weight(dtype, 37, 256, random);
    const DeviceArray x(normal_values(std::size_t{3} * 256, random), DType::f32), out(std::size_t{3} * 50 * 4);
    LinearRows product;
    product.rows = 3;
    product.inputs = 256;
    product.outputs = 37;
    product.x = {x.data(), 256};
    product.weight = {weight.packed.data(), 256};
    product.weight_dtype = dtype;
    product.out = {out.data(), 50};
    linear_packed(product, nullptr);
    const std::vector<double> got = out.download(DType::f32);
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(std::isnan(got[i]), i % 50 >= 37) << name(dtype) << " " << i;
  }
}

TEST(UnpackRows, AreTheElementsOfTheBlocks) {
  Random random(4);
  for (const DType dtype : packed_dtypes)
    for (const int columns : {256, 768}) {
      const Weight weight(dtype, 37, columns, random);
      const std::vector<std::int32_t> ids{5, 0, 36, 5, 17};
      const DeviceArray ids_device(ids);
      for (const DType out_dtype : {DType::f32, DType::bf16})
        for (const int gap : {0, 1}) {
          const std::size_t stride = at(columns + gap);
          const DeviceArray some(ids.size() * stride * element_size(out_dtype));
          const DeviceArray all(std::size_t{30} * stride * element_size(out_dtype));
          UnpackRows op{.count = 5, .columns = columns, .weight = weight.packed.data(), .weight_dtype = dtype};
          op.weight_rows = 37;
          op.ids = ids_device.ints();
          op.out = {some.data(), columns + gap};
          op.out_dtype = out_dtype;
          unpack_rows(op, nullptr);
          op.ids = nullptr;
          op.first = 7;
          op.count = 30;
          op.out.data = all.data();
          unpack_rows(op, nullptr);
          const std::vector<double> got = some.download(out_dtype), got_all = all.download(out_dtype);
          for (std::size_t i = 0; i < ids.size() + 30; ++i) {
            const std::size_t row = i < ids.size() ? at(ids[i]) : i - ids.size() + 7;
            const double* from = i < ids.size() ? &got[i * stride] : &got_all[(i - ids.size()) * stride];
            for (std::size_t k = 0; k < at(columns); ++k)
              ASSERT_EQ(from[k], rounded_to(static_cast<double>(weight.values[row * at(columns) + k]), out_dtype));
          }
        }
    }
}

TEST(UnpackRows, AnIdOutsideTheTableGivesNaN) {
  Random random(5);
  const Weight weight(DType::q8_0, 5, 64, random);
  const DeviceArray ids(std::vector<std::int32_t>{5, -1}), out(std::size_t{2} * 64 * 4);
  UnpackRows op{.count = 2, .columns = 64, .weight = weight.packed.data(), .weight_dtype = DType::q8_0};
  op.weight_rows = 5;
  op.ids = ids.ints();
  op.out = {out.data(), 64};
  unpack_rows(op, nullptr);
  for (const double value : out.download(DType::f32)) EXPECT_TRUE(std::isnan(value));
}

}  // namespace
}  // namespace mamba2::cuda
