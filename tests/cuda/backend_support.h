#pragma once

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/cuda/cuda_backend.h"
#include "tests/cpu/operands.h"

/// What the tests of the CUDA backend's ops share: every op against the reference in double, shape by shape.  A line
/// for each test says how near its worst shape came to the bound; without a GPU the tests are skipped.
namespace mamba2::test {

// Roundings that a kernel has and a plain evaluation does not: exp and tanh good to a few units, folded sums.
inline constexpr double functions = 16, foldings = 8, chunking = 32;
// Inputs of a product rounded to bf16 or f16: half a unit each of the terms' sum, in units of f32.
inline constexpr double bf16_inputs = 0x1p-9 / 0x1p-24, f16_inputs = 0x1p-12 / 0x1p-24;

inline Backend& exact() {
  static const std::unique_ptr<Backend> made = make_cuda_backend(cuda::Precision::exact);
  return *made;
}
inline Backend& fast() {
  static const std::unique_ptr<Backend> made = make_cuda_backend();
  return *made;
}

class CudaBackendOps : public testing::Test {
 protected:
  void SetUp() override {
    static const cuda::Summary gpu = cuda::describe();
    if (!gpu.usable) GTEST_SKIP() << gpu.problem;
  }
  void TearDown() override {
    if (!worst_.empty()) fmt::print("  worst {:.3f} of the bound: {}\n", worst_share_, worst_);
  }

  /// The body's results agree with the reference's; an Error counts as a failure of this shape alone.
  void agree(const std::string& shape, Backend& backend, double roundings, const Body& body) {
    try {
      const Agreement found = agreement(backend, ++seed_, roundings, body);
      EXPECT_LE(found.error, found.allowed) << shape;
      const double share = found.allowed > 0 ? found.error / found.allowed : found.error > 0 ? INFINITY : 0.0;
      if (worst_.empty() || !(share <= worst_share_)) {
        worst_share_ = share;
        worst_ = fmt::format("{} (error {:.3g}, allowed {:.3g})", shape, found.error, found.allowed);
      }
    } catch (const Error& error) {
      ADD_FAILURE() << shape << ": " << error.what();
    }
  }

 private:
  std::uint64_t seed_ = 100;
  double worst_share_ = 0;
  std::string worst_;
};

inline const std::vector<std::vector<std::int64_t>> batches{{1},           {5},         {1, 1, 1},
                                                            {0, 3, 0, 20}, {63, 1, 65}, {129, 0, 2, 64}};

inline std::string text_of(const std::vector<std::int64_t>& lengths) {
  std::string text = "tokens";
  for (const std::int64_t length : lengths) text += fmt::format(" {}", length);
  return text;
}

}  // namespace mamba2::test
