#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mamba2/base/random.h"
#include "mamba2/cpu/cpu_backend.h"
#include "mamba2/ops/backend.h"

/// Runs one op with the same operands on the reference in double, the reference in f32 and the cpu backend.
namespace mamba2::test {

enum class Values : std::uint8_t { as_drawn, magnitudes };

/// Operands on one backend, drawn in the order they are asked for; the same seed gives the same values everywhere.
class Operands {
 public:
  Operands(Backend& backend, std::uint64_t seed, Values values) : backend_(backend), random_(seed), values_(values) {}

  Backend& backend() { return backend_; }

  /// Normal values of that spread about a middle.
  Tensor dense(const Shape& shape, double spread = 1.0, double middle = 0.0);
  /// (rows, width) with gaps between the rows, as columns of a wider matrix.
  Tensor rows(std::int64_t rows, std::int64_t width, double spread = 1.0, double middle = 0.0);
  /// The same values as rows() draws, rounded to bf16.
  Tensor rows_in_bf16(std::int64_t rows, std::int64_t width);
  /// (rows, a, b): rows() seen as a by b.
  Tensor heads(std::int64_t rows, std::int64_t a, std::int64_t b);
  /// As rows(), holding NaN until the op writes it.
  Tensor unwritten(std::int64_t rows, std::int64_t width);
  Tensor unwritten_heads(std::int64_t rows, std::int64_t a, std::int64_t b);
  /// The same values in another dtype, rounded to nearest, without gaps.
  Tensor in_dtype(const Tensor& tensor, DType dtype);
  Tensor integers(const std::vector<std::int32_t>& values);
  const PreparedWeight* weight(std::int64_t rows, std::int64_t columns, DType stored, DType held);
  /// Sequences of these lengths that had `before` tokens earlier, at slots in falling order, of which there is one more
  /// than needed.
  Batch batch(const std::vector<std::int64_t>& lengths, std::int64_t before = 0);

  /// What the op wrote there is compared.
  void result(const Tensor& tensor) { results_.push_back(tensor); }
  std::vector<double> results();

 private:
  Tensor keep(DeviceTensor made);
  Tensor from_values(const Shape& shape, const std::function<double()>& value);

  Backend& backend_;
  Random random_;
  Values values_;
  std::vector<DeviceTensor> kept_;
  std::vector<HostTensor> hosts_;
  std::vector<std::unique_ptr<PreparedWeight>> weights_;
  std::vector<Tensor> results_;
};

using Body = std::function<void(Operands&)>;

/// Fails the current test unless the backend's error against the reference in double is at most twice that of the
/// reference in f32, plus `roundings` units of rounding (2^-24) of the largest result that the same sums have where no
/// two terms cancel.
void expect_agreement(Backend& backend, std::uint64_t seed, double roundings, const Body& body);

/// The reference in double, and in f32.
Backend& truth();
Backend& plain();

/// The largest difference, infinite where one is not a number.
double largest_difference(const std::vector<double>& a, const std::vector<double>& b);

struct Agreement {
  double error, allowed;
};
/// What expect_agreement compares.
Agreement agreement(Backend& backend, std::uint64_t seed, double roundings, const Body& body);

/// The op's results on a backend, for comparing bits.
std::vector<double> results_of(Backend& backend, std::uint64_t seed, const Body& body);

/// One cpu backend for each instruction set of the machine, made once, with three threads (more than the pieces of some
/// loops, fewer than of others).
Backend& cpu_with(cpu::Isa isa);
/// The same with Bf16Products::always.
Backend& uniform_cpu_with(cpu::Isa isa);

class EveryIsa : public testing::TestWithParam<cpu::Isa> {
 protected:
  Backend& backend() { return cpu_with(GetParam()); }
};

inline std::string isa_name(const testing::TestParamInfo<cpu::Isa>& info) {
  return std::string(cpu::name(info.param));
}

}  // namespace mamba2::test
