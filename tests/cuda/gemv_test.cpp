#include "mamba2/cuda/gemv.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

TEST(Gemv, AgreesWithTheProductInDoubleOverRandomShapes) {
  Random random(1);
  for (int i = 0; i < 60; ++i) {
    const DType dtype = i % 2 == 0 ? DType::bf16 : DType::f16, out_dtype = i % 3 == 0 ? DType::f32 : dtype;
    const int rows = uniform_int(1, gemv_max_rows, random), inputs = 8 * uniform_int(1, i % 10 == 9 ? 30 : 300, random);
    const int outputs = i % 10 == 9 ? uniform_int(17000, 18000, random) : uniform_int(1, 500, random);
    const bool biased = uniform_int(0, 1, random) == 0;
    const auto K = static_cast<std::size_t>(inputs), M = static_cast<std::size_t>(outputs);
    const std::vector<double> x = rounded_to(normal_values(static_cast<std::size_t>(rows) * K, random), dtype);
    const std::vector<double> w = rounded_to(normal_values(M * K, random), dtype);
    const std::vector<double> bias = rounded_to(normal_values(M, random), DType::f32);
    std::vector<double> want(static_cast<std::size_t>(rows) * M);
    double largest_terms = 0;
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
      for (std::size_t m = 0; m < M; ++m) {
        double sum = biased ? bias[m] : 0.0, terms = std::abs(sum);
        for (std::size_t k = 0; k < K; ++k) {
          sum += x[r * K + k] * w[m * K + k];
          terms += std::abs(x[r * K + k] * w[m * K + k]);
        }
        want[r * M + m] = sum;
        largest_terms = std::max(largest_terms, terms);
      }
    const DeviceArray x_device(x, dtype), w_device(w, dtype), bias_device(bias, DType::f32);
    const DeviceArray out(want.size() * element_size(out_dtype));
    Gemv product;
    product.rows = rows;
    product.inputs = inputs;
    product.outputs = outputs;
    product.dtype = dtype;
    product.x = {x_device.data(), inputs};
    product.weight = {w_device.data(), inputs};
    if (biased) product.bias = bias_device.floats();
    product.out = {out.data(), outputs};
    product.out_dtype = out_dtype;
    gemv(product, nullptr);
    SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(inputs) + " x " + std::to_string(outputs));
    double largest = 0;
    for (const double value : want) largest = std::max(largest, std::abs(value));
    // rounding the result; the tensor cores' f32 sums of 16 products truncate, at most a unit each of the terms' sum
    const double bound =
        0.5 * epsilon(out_dtype) * largest + (inputs / 16 / 8 + 8) * epsilon(DType::f32) * largest_terms;
    EXPECT_LE(max_error(out.download(out_dtype), want), bound);
  }
}

TEST(Gemv, LeavesEveryMultiprocessorSeveralBlocks) {
  constexpr int multiprocessors = 132;
  for (int outputs = 1; outputs < 100000; outputs += 97) {
    const int groups = gemv_groups_per_block(outputs, multiprocessors);
    EXPECT_TRUE(groups == 1 || outputs / (8 * groups) >= 4 * multiprocessors) << outputs;
  }
}

}  // namespace
}  // namespace mamba2::cuda
