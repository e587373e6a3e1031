#include "mamba2/cuda/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

std::vector<double> normalised(const std::vector<double>& x, const std::vector<double>& weight, std::size_t width,
                               int groups, double eps) {
  std::vector<double> out(x.size());
  const std::size_t group_width = width / static_cast<std::size_t>(groups);
  for (std::size_t first = 0; first < x.size(); first += group_width) {
    double squares = 0;
    for (std::size_t i = first; i < first + group_width; ++i) squares += x[i] * x[i];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(group_width) + eps);
    for (std::size_t i = first; i < first + group_width; ++i) out[i] = x[i] * scale * weight[i % width];
  }
  return out;
}

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double value : values) result = std::max(result, std::abs(value));
  return result;
}

/// Rounding of the result, and the f32 sum's relative error, at most its length's logarithm with pairwise sums: 16
/// units.
double bound(const std::vector<double>& want, DType dtype) {
  return (0.5 * epsilon(dtype) + 16 * epsilon(DType::f32)) * largest(want);
}

TEST(RmsNorm, AgreesWithItsDefinitionInDoubleOverRandomShapes) {
  Random random(1);
  const DType dtypes[] = {DType::bf16, DType::f32, DType::f16};
  for (int i = 0; i < 40; ++i) {
    const DType dtype = dtypes[i % 3], residual_dtype = i % 2 == 0 ? DType::f32 : dtype;
    const int width = i % 4 == 3 ? uniform_int(1, 700, random) : 8 * uniform_int(1, 800, random);
    const int rows = uniform_int(1, 9, random);
    const bool has_residual = uniform_int(0, 2, random) > 0;
    const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(width);
    const std::vector<double> x = rounded_to(normal_values(count, random), dtype);
    const std::vector<double> before = rounded_to(normal_values(count, random), residual_dtype);
    const std::vector<double> weight = rounded_to(normal_values(static_cast<std::size_t>(width), random), DType::f32);
    std::vector<double> sum = x;
    if (has_residual)
      for (std::size_t e = 0; e < count; ++e) sum[e] = rounded_to(x[e] + before[e], residual_dtype);
    const DeviceArray x_device(x, dtype), residual(before, residual_dtype), weight_device(weight, DType::f32),
        out(x_device.size());
    RmsNorm norm;
    norm.rows = rows;
    norm.width = width;
    norm.x = {x_device.data(), width};
    norm.dtype = dtype;
    if (has_residual) norm.residual = {residual.data(), width};
    norm.residual_dtype = residual_dtype;
    norm.weight = weight_device.floats();
    norm.out = {out.data(), width};
    rms_norm(norm, nullptr);
    SCOPED_TRACE(std::string(name(dtype)) + " width " + std::to_string(width) + (has_residual ? " with residual" : ""));
    const std::vector<double> want = normalised(sum, weight, static_cast<std::size_t>(width), 1, 1e-5);
    EXPECT_LE(max_error(out.download(dtype), want), bound(want, dtype));
    EXPECT_EQ(max_error(residual.download(residual_dtype), has_residual ? sum : before), 0.0);
  }
}

TEST(GatedRmsNorm, AgreesWithItsDefinitionInDoubleOverRandomShapes) {
  Random random(2);
  const DType dtypes[] = {DType::bf16, DType::f32, DType::f16};
  for (int i = 0; i < 40; ++i) {
    const DType dtype = dtypes[i % 3];
    const int groups = uniform_int(1, 8, random);
    const int width = groups * (i % 4 == 3 ? uniform_int(1, 90, random) : 8 * uniform_int(1, 200, random));
    const int rows = uniform_int(1, 5, random);
    const bool first = i % 5 == 4, gated = i % 7 != 6;
    const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(width);
    const std::vector<double> y = rounded_to(normal_values(count, random), dtype),
                              z = rounded_to(normal_values(count, random), dtype);
    const std::vector<double> weight = rounded_to(normal_values(static_cast<std::size_t>(width), random), DType::f32);
    auto gate = [&](std::vector<double> values) {
      if (gated)
        for (std::size_t e = 0; e < count; ++e) values[e] *= z[e] / (1 + std::exp(-z[e]));
      return values;
    };
    const auto row_width = static_cast<std::size_t>(width);
    const std::vector<double> want = first ? gate(normalised(y, weight, row_width, groups, 1e-5))
                                           : normalised(gate(y), weight, row_width, groups, 1e-5);
    const DeviceArray y_device(y, dtype), z_device(z, dtype), weight_device(weight, DType::f32), out(y_device.size());
    GatedRmsNorm norm;
    norm.rows = rows;
    norm.width = width;
    norm.groups = groups;
    norm.norm_before_gate = first;
    norm.y_dtype = norm.z_dtype = norm.out_dtype = dtype;
    norm.y = {y_device.data(), width};
    if (gated) norm.z = {z_device.data(), width};
    norm.weight = weight_device.floats();
    norm.out = {out.data(), width};
    gated_rms_norm(norm, nullptr);
    SCOPED_TRACE(std::string(name(dtype)) + " width " + std::to_string(width) + " groups " + std::to_string(groups));
    EXPECT_LE(max_error(out.download(dtype), want), bound(want, dtype));
  }
}

// More rows than blocks, each of which then goes through several.
constexpr int many_rows = 1500;

TEST(RmsNorm, LeavesManyRowsRoundedAlone) {
  Random random(3);
  for (const int width : {1028, 2564}) {
    const auto row = static_cast<std::size_t>(width), count = many_rows * row;
    const std::vector<double> x = rounded_to(normal_values(count, random), DType::f32),
                              weight = rounded_to(normal_values(row, random), DType::f32);
    const DeviceArray x_device(x, DType::f32), weight_device(weight, DType::f32), out(2 * count);
    RmsNorm norm;
    norm.rows = many_rows;
    norm.width = width;
    norm.x = {x_device.data(), width};
    norm.weight = weight_device.floats();
    norm.rounded = {out.data(), width};
    rms_norm(norm, nullptr);
    const std::vector<double> want = normalised(x, weight, row, 1, 1e-5);
    EXPECT_LE(max_error(out.download(DType::bf16), want), bound(want, DType::bf16)) << "width " << width;
  }
}

TEST(GatedRmsNorm, TakesManyRowsOfDifferentDtypes) {
  Random random(4);
  const DType bf16 = DType::bf16, f32 = DType::f32;
  for (const auto& [z_dtype, out_dtype] : {std::pair(bf16, bf16), {f32, bf16}, {f32, f32}})
    for (const int width : {2 * 520, 4104}) {
      const auto row = static_cast<std::size_t>(width), count = many_rows * row;
      const int groups = width == 4104 ? 1 : 2;
      std::vector<double> y = rounded_to(normal_values(count, random), bf16),
                          z = rounded_to(normal_values(count, random), z_dtype);
      const std::vector<double> weight = rounded_to(normal_values(row, random), f32);
      const DeviceArray y_device(y, bf16), z_device(z, z_dtype), weight_device(weight, f32),
          out(count * element_size(out_dtype));
      GatedRmsNorm norm;
      norm.rows = many_rows;
      norm.width = width;
      norm.groups = groups;
      norm.y_dtype = bf16;
      norm.z_dtype = z_dtype;
      norm.out_dtype = out_dtype;
      norm.y = {y_device.data(), width};
      norm.z = {z_device.data(), width};
      norm.weight = weight_device.floats();
      norm.out = {out.data(), width};
      gated_rms_norm(norm, nullptr);
      for (std::size_t i = 0; i < count; ++i) y[i] *= z[i] / (1 + std::exp(-z[i]));
      const std::vector<double> want = normalised(y, weight, row, groups, 1e-5);
      EXPECT_LE(max_error(out.download(out_dtype), want), bound(want, out_dtype)) << "width " << width;
    }
}

}  // namespace
}  // namespace mamba2::cuda
