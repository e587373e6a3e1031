#include "mamba2/cuda/linear.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

struct Case {
  int rows = 0, inputs = 0, outputs = 0;
  DType dtype = DType::f32, x_dtype = DType::f32;
  bool biased = false, added = false;
};

/// Runs a kernel on fresh operands; fails where it is off by more than f32 sums of that length may be.
void check_product(const Case& c, void (*kernel)(const LinearRows&, cudaStream_t), Random& random) {
  const auto K = static_cast<std::size_t>(c.inputs), M = static_cast<std::size_t>(c.outputs);
  const auto R = static_cast<std::size_t>(c.rows);
  const std::vector<double> x = rounded_to(normal_values(R * K, random), c.x_dtype);
  const std::vector<double> w = rounded_to(normal_values(M * K, random), c.dtype);
  const std::vector<double> bias = rounded_to(normal_values(M, random), DType::f32);
  const std::vector<double> add = rounded_to(normal_values(R * M, random), DType::f32);
  std::vector<double> want(R * M);
  double largest_terms = 0;
  for (std::size_t r = 0; r < R; ++r)
    for (std::size_t m = 0; m < M; ++m) {
      double sum = (c.biased ? bias[m] : 0.0) + (c.added ? add[r * M + m] : 0.0), terms = std::abs(sum);
      for (std::size_t k = 0; k < K; ++k) {
        sum += x[r * K + k] * w[m * K + k];
        terms += std::abs(x[r * K + k] * w[m * K + k]);
      }
      want[r * M + m] = sum;
      largest_terms = std::max(largest_terms, terms);
    }
  const DeviceArray x_device(x, c.x_dtype), w_device(w, c.dtype), bias_device(bias, DType::f32);
  const DeviceArray add_device(add, DType::f32), out(want.size() * 4);
  LinearRows product;
  product.rows = c.rows;
  product.inputs = c.inputs;
  product.outputs = c.outputs;
  product.x = {x_device.data(), c.inputs};
  product.x_dtype = c.x_dtype;
  product.weight = {w_device.data(), c.inputs};
  product.weight_dtype = c.dtype;
  if (c.biased) product.bias = bias_device.floats();
  if (c.added) product.add = {add_device.data(), c.outputs};
  product.out = {out.data(), c.outputs};
  if (kernel == linear_streamed && !linear_streamed_takes(product)) return;
  kernel(product, nullptr);
  // a lane's sum in order, or a thread's over all inputs: half a unit of the terms' sum for each addition
  const double bound = (0.5 * c.inputs + 4) * epsilon(DType::f32) * largest_terms;
  EXPECT_LE(max_error(out.download(DType::f32), want), bound)
      << c.rows << " x " << c.inputs << " x " << c.outputs << " " << name(c.dtype);
}

TEST(Linear, AgreesWithTheProductInDoubleOverRandomShapes) {
  Random random(1);
  constexpr DType dtypes[] = {DType::f32, DType::bf16, DType::f16};
  for (int i = 0; i < 60; ++i) {
    Case c;
    c.dtype = dtypes[i % 3];
    c.rows = uniform_int(1, i % 5 == 4 ? 70 : few_rows_limit, random);
    c.inputs = i % 2 == 0 ? 8 * uniform_int(1, 300, random) : uniform_int(1, 500, random);
    c.outputs = i % 10 == 9 ? uniform_int(17000, 18000, random) : uniform_int(1, 500, random);
    if (c.outputs > 1000) c.inputs = std::min(c.inputs, 256);
    c.biased = uniform_int(0, 1, random) == 0;
    c.added = uniform_int(0, 1, random) == 0;
    check_product(c, linear_few_rows, random);
    check_product(c, linear_tiled, random);
  }
}

TEST(Linear, StreamedAgreesWithTheProductInDoubleOverRandomShapes) {
  Random random(2);
  for (int i = 0; i < 40; ++i) {
    Case c;
    c.dtype = DType::bf16;
    c.x_dtype = i % 2 == 0 ? DType::f32 : DType::bf16;
    c.rows = uniform_int(1, i % 2 == 0 ? few_rows_limit : streamed_rows_limit, random);
    c.inputs = 64 * uniform_int(1, 40, random);
    // fewer than multiprocessors, a whole tile and one more, many tiles
    c.outputs = i % 10 == 9 ? uniform_int(9000, 9500, random) : uniform_int(1, i % 3 == 0 ? 140 : 2000, random);
    if (c.outputs > 1000) c.inputs = std::min(c.inputs, 576);
    c.biased = uniform_int(0, 1, random) == 0;
    c.added = uniform_int(0, 1, random) == 0;
    check_product(c, linear_streamed, random);
  }
}

}  // namespace
}  // namespace mamba2::cuda
