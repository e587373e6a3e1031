#include "mamba2/cuda/token_ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

TEST(Embedding, CopiesTheRowsOfTheIds) {
  Random random(1);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const int vocabulary = 50, width = 77;
    const std::vector<double> table =
        rounded_to(normal_values(static_cast<std::size_t>(vocabulary * width), random), dtype);
    std::vector<std::int32_t> ids;
    std::vector<double> want;
    for (int t = 0; t < 20; ++t) {
      ids.push_back(uniform_int(0, vocabulary - 1, random));
      want.insert(want.end(), table.begin() + ids.back() * width, table.begin() + (ids.back() + 1) * width);
    }
    const DeviceArray table_device(table, dtype), ids_device(ids), out(want.size() * 4);
    embedding({20,
               width,
               vocabulary,
               ids_device.ints(),
               {table_device.data(), width},
               dtype,
               {out.data(), width},
               DType::f32},
              nullptr);
    EXPECT_EQ(max_error(out.download(DType::f32), want), 0.0);
  }
}

TEST(SoftplusDt, AgreesWithItsDefinitionInDoubleAndDoesNotOverflow) {
  Random random(2);
  const int heads = 13, tokens = 50, stride = 20;
  const std::vector<double> raw =
      rounded_to(normal_values(static_cast<std::size_t>(tokens * stride), random, 40.0), DType::f32);
  const std::vector<double> bias = rounded_to(normal_values(heads, random), DType::f32);
  for (const double limit : {static_cast<double>(std::numeric_limits<float>::infinity()), 3.0}) {
    std::vector<double> want;
    for (int t = 0; t < tokens; ++t)
      for (int h = 0; h < heads; ++h) {
        const double v = raw[static_cast<std::size_t>(t * stride + h)] + bias[static_cast<std::size_t>(h)];
        want.push_back(std::min(std::max(std::max(v, 0.0) + std::log1p(std::exp(-std::abs(v))), 0.01), limit));
      }
    const DeviceArray raw_device(raw, DType::f32), bias_device(bias, DType::f32), dt(want.size() * 4);
    SoftplusDt op;
    op.tokens = tokens;
    op.num_heads = heads;
    op.dt_raw = {raw_device.data(), stride};
    op.bias = bias_device.floats();
    op.dt_min = 0.01F;
    op.dt_max = static_cast<float>(limit);
    op.dt = static_cast<float*>(dt.data());
    op.dt_stride = heads;
    softplus_dt(op, nullptr);
    // raw + bias rounds at up to 256, so half a unit there, and a few units of the functions
    EXPECT_LE(max_error(dt.download(DType::f32), want), 256 * epsilon(DType::f32));
  }
}

}  // namespace
}  // namespace mamba2::cuda
