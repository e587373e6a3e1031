#include "tests/cpu/operands.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "mamba2/reference/reference_backend.h"
#include "mamba2/tensor/columns.h"

namespace mamba2::test {
namespace {

constexpr std::int64_t gap = 3;  // columns between rows, odd so that rows have every alignment

std::vector<double> run(Backend& backend, std::uint64_t seed, Values values, const Body& body) {
  Operands operands(backend, seed, values);
  body(operands);
  return operands.results();
}

}  // namespace

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = a.size() == b.size() ? 0.0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::fabs(a[i] - b[i]);
    largest = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(largest, difference);
  }
  return largest;
}

Tensor Operands::keep(DeviceTensor made) {
  kept_.push_back(std::move(made));
  return kept_.back().view;
}

Tensor Operands::from_values(const Shape& shape, const std::function<double()>& value) {
  const HostTensor host(DType::f32, shape);
  for (float& element : host.span<float>()) element = static_cast<float>(value());
  return keep(backend_.upload(host, backend_.activation_dtype()));
}

Tensor Operands::dense(const Shape& shape, double spread, double middle) {
  return from_values(shape, [&] {
    const double value = middle + spread * random_.normal();
    return values_ == Values::magnitudes ? std::fabs(value) : value;
  });
}

Tensor Operands::rows(std::int64_t rows, std::int64_t width, double spread, double middle) {
  return dense(Shape{rows, width + gap}, spread, middle).slice(1, 1, width);
}

Tensor Operands::rows_in_bf16(std::int64_t rows, std::int64_t width) {
  const Tensor drawn = this->rows(rows, width);
  const HostTensor rounded(DType::bf16, drawn.shape);  // both backends' tensors lie in host memory
  convert(drawn, rounded);
  convert(rounded, drawn);
  return drawn;
}

Tensor Operands::heads(std::int64_t rows, std::int64_t a, std::int64_t b) {
  return split_columns(this->rows(rows, a * b), a, b);
}

Tensor Operands::unwritten(std::int64_t rows, std::int64_t width) {
  return from_values(Shape{rows, width + gap}, [] { return std::numeric_limits<double>::quiet_NaN(); })
      .slice(1, 1, width);
}

Tensor Operands::unwritten_heads(std::int64_t rows, std::int64_t a, std::int64_t b) {
  return split_columns(unwritten(rows, a * b), a, b);
}

Tensor Operands::in_dtype(const Tensor& tensor, DType dtype) {
  const Tensor made = keep(backend_.allocate(dtype, tensor.shape));
  convert(tensor, made);
  return made;
}

Tensor Operands::integers(const std::vector<std::int32_t>& values) {
  const HostTensor host(DType::i32, Shape{static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), host.span<std::int32_t>().begin());
  return keep(backend_.upload(host, DType::i32));
}

const PreparedWeight* Operands::weight(std::int64_t rows, std::int64_t columns, DType stored, DType held) {
  const HostTensor drawn(DType::f32, Shape{rows, columns});
  for (float& element : drawn.span<float>()) {
    element = static_cast<float>(random_.normal());
    if (values_ == Values::magnitudes) element = std::fabs(element);
  }
  hosts_.emplace_back(stored, Shape{rows, columns});
  convert(drawn, hosts_.back());
  // The reference keeps the rounding to `held` too, so that all multiply the same numbers.
  weights_.push_back(backend_.prepare(WeightRole::embedding_and_linear, hosts_.back(), held));
  return weights_.back().get();
}

Batch Operands::batch(const std::vector<std::int64_t>& lengths, std::int64_t before) {
  std::vector<std::int32_t> start{0}, slots, positions;
  for (const std::int64_t length : lengths) {
    start.push_back(start.back() + static_cast<std::int32_t>(length));
    slots.push_back(static_cast<std::int32_t>(lengths.size() - slots.size()));
    for (std::int64_t i = 0; i < length; ++i) positions.push_back(static_cast<std::int32_t>(before + i));
  }
  return {.tokens = start.back(),
          .sequences = static_cast<std::int64_t>(lengths.size()),
          .longest = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end()),
          .sequence_start = integers(start),
          .slots = integers(slots),
          .positions = integers(positions)};
}

std::vector<double> Operands::results() {
  std::vector<double> all;
  for (const Tensor& tensor : results_) {
    const HostTensor host(tensor.dtype, tensor.shape);
    backend_.download(tensor, host);
    for (std::int64_t i = 0; i < tensor.elements(); ++i) all.push_back(element_as_double(host, i));
  }
  return all;
}

Backend& truth() {
  static const std::unique_ptr<Backend> backend = make_reference_backend(DType::f64);
  return *backend;
}

Backend& plain() {
  static const std::unique_ptr<Backend> backend = make_reference_backend(DType::f32, DType::f32);
  return *backend;
}

Agreement agreement(Backend& backend, std::uint64_t seed, double roundings, const Body& body) {
  const std::vector<double> want = run(truth(), seed, Values::as_drawn, body);
  const std::vector<double> magnitudes = run(truth(), seed, Values::magnitudes, body);
  const double largest = std::accumulate(magnitudes.begin(), magnitudes.end(), 0.0,
                                         [](double most, double value) { return std::max(most, std::fabs(value)); });
  const double allowed =
      2 * largest_difference(run(plain(), seed, Values::as_drawn, body), want) + roundings * 0x1p-24 * largest;
  return {largest_difference(run(backend, seed, Values::as_drawn, body), want), allowed};
}

void expect_agreement(Backend& backend, std::uint64_t seed, double roundings, const Body& body) {
  const Agreement found = agreement(backend, seed, roundings, body);
  EXPECT_LE(found.error, found.allowed) << "seed " << seed;
}

std::vector<double> results_of(Backend& backend, std::uint64_t seed, const Body& body) {
  return run(backend, seed, Values::as_drawn, body);
}

Backend& cpu_with(cpu::Isa isa) {
  static std::map<cpu::Isa, std::unique_ptr<Backend>> made;
  std::unique_ptr<Backend>& backend = made[isa];
  if (backend == nullptr) backend = make_cpu_backend(3, isa);
  return *backend;
}

Backend& uniform_cpu_with(cpu::Isa isa) {
  static std::map<cpu::Isa, std::unique_ptr<Backend>> made;
  std::unique_ptr<Backend>& backend = made[isa];
  if (backend == nullptr) backend = make_cpu_backend(3, isa, cpu::ScanForm::sequential, cpu::Bf16Products::always);
  return *backend;
}

}  // namespace mamba2::test
