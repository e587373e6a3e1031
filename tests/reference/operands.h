#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/reference/reference_backend.h"

namespace mamba2::test {

/// The reference in one precision, with tensors made of numbers that are written down.
class Operands : public ::testing::TestWithParam<DType> {
 protected:
  Backend& backend() { return *backend_; }

  Tensor tensor(const Shape& shape, const std::vector<double>& values, DType dtype) {
    const HostTensor exact(DType::f64, shape);
    EXPECT_EQ(static_cast<std::size_t>(shape.elements()), values.size());
    std::copy(values.begin(), values.end(), exact.view().as<double>());
    const HostTensor& made = tensors_.emplace_back(dtype, shape);
    convert(exact, made);
    return made;
  }
  Tensor tensor(const Shape& shape, const std::vector<double>& values) { return tensor(shape, values, GetParam()); }
  Tensor zeros(const Shape& shape) { return tensors_.emplace_back(GetParam(), shape); }
  Tensor integers(const std::vector<std::int32_t>& values) {
    const HostTensor& made = tensors_.emplace_back(DType::i32, Shape{static_cast<std::int64_t>(values.size())});
    std::copy(values.begin(), values.end(), made.view().as<std::int32_t>());
    return made;
  }
  const PreparedWeight* weight(const Shape& shape, const std::vector<double>& values, DType held_as = DType::f32) {
    weights_.push_back(backend().prepare(WeightRole::linear, tensor(shape, values, DType::f32), held_as));
    return weights_.back().get();
  }

  /// lengths: tokens of each sequence; seen: how many came before; slots: 0, 1, ... unless given.
  Batch batch(const std::vector<std::int32_t>& lengths, std::vector<std::int32_t> slots = {},
              std::vector<std::int32_t> seen = {}) {
    std::vector<std::int32_t> start{0}, positions;
    Batch made;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      start.push_back(start.back() + lengths[s]);
      if (slots.size() == s) slots.push_back(static_cast<std::int32_t>(s));
      if (seen.size() == s) seen.push_back(0);
      for (std::int32_t i = 0; i < lengths[s]; ++i) positions.push_back(seen[s] + i);
      made.longest = std::max<std::int64_t>(made.longest, lengths[s]);
    }
    made.tokens = start.back();
    made.sequences = static_cast<std::int64_t>(lengths.size());
    made.sequence_start = integers(start);
    made.slots = integers(slots);
    made.positions = integers(positions);
    return made;
  }

  /// A few roundings of the scalar for each of the few terms of a sum.
  void expect(const Tensor& got, const std::vector<double>& expected) const {
    const double bound = GetParam() == DType::f64 ? 1e-14 : 2e-6;
    ASSERT_EQ(static_cast<std::size_t>(got.elements()), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(element_as_double(got, static_cast<std::int64_t>(i)), expected[i],
                  bound * std::max(1.0, std::abs(expected[i])))
          << "element " << i;
  }

 private:
  std::unique_ptr<Backend> backend_ = make_reference_backend(GetParam());
  std::deque<HostTensor> tensors_;
  std::vector<std::unique_ptr<PreparedWeight>> weights_;
};

inline std::string precision_name(const ::testing::TestParamInfo<DType>& info) {
  return std::string(name(info.param));
}

inline double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}
inline double silu(double x) {
  return x * sigmoid(x);
}

}  // namespace mamba2::test
