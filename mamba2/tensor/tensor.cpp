#include "mamba2/tensor/tensor.h"

#include <fmt/ranges.h>

#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/tensor/quantized.h"

namespace mamba2 {

Shape::Shape(std::initializer_list<std::int64_t> extents) : Shape(std::span(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) {
  require(extents.size() <= max_rank, "a shape has {} dimensions, expected at most {}", extents.size(),
          static_cast<int>(max_rank));
  rank_ = static_cast<int>(extents.size());
  std::int64_t product = 1;
  bool overflow = false;
  for (std::size_t i = 0; i < extents.size(); ++i) {
    require(extents[i] >= 0, "a shape has extent {}, expected 0 or more", extents[i]);
    extents_[i] = extents[i];
    overflow = overflow || (extents[i] != 0 && product > std::numeric_limits<std::int64_t>::max() / 8 / extents[i]);
    if (!overflow) product *= std::max<std::int64_t>(extents[i], 1);
  }
  require(!overflow, "shape {} has more elements than 64 bits can count", to_string(*this));
}

std::int64_t Shape::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : extents()) product *= extent;
  return product;
}

std::string to_string(const Shape& shape) {
  return fmt::format("({})", fmt::join(shape.extents(), ", "));
}

Tensor::Tensor(void* memory, DType type, Shape extents, Device where)
    : data(memory), dtype(type), device(where), shape(extents) {
  if (is_quantized(type))
    require(shape.rank() > 0 && shape[-1] % block_elements(type) == 0,
            "a tensor of shape {} can't be {}, whose rows are whole blocks of {}", to_string(shape), name(type),
            block_elements(type));
  std::int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[static_cast<std::size_t>(i)] = stride;
    stride *= shape[i];
  }
}

bool Tensor::contiguous() const {
  std::int64_t expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (size(i) != 1 && stride(i) != expected) return false;
    expected *= size(i);
  }
  return true;
}

Tensor Tensor::slice(int i, std::int64_t start, std::int64_t count) const {
  // Not by require(): a model slices some hundred times a step, and the shape's text would be made each time.
  if (i >= rank() || start < 0 || count < 0 || start + count > size(i))
    fail("slice [{}, {}) of dimension {} is outside {}", start, start + count, i, to_string(shape));
  Tensor view = *this;
  std::array<std::int64_t, Shape::max_rank> extents{};
  for (int d = 0; d < rank(); ++d) extents[static_cast<std::size_t>(d)] = d == i ? count : size(d);
  view.shape = Shape(std::span(extents.data(), static_cast<std::size_t>(rank())));
  if (i == rank() - 1) static_cast<void>(bytes_for(dtype, count));  // throws where blocks would be cut
  view.data = static_cast<std::byte*>(data) + bytes_for(dtype, start * stride(i));
  return view;
}

Tensor Tensor::operator[](std::int64_t index) const {
  const Tensor row = slice(0, index, 1);
  Tensor view = row;
  view.shape = Shape(row.shape.extents().subspan(1));
  for (int d = 0; d < view.rank(); ++d) view.strides[static_cast<std::size_t>(d)] = row.stride(d + 1);
  return view;
}

Tensor Tensor::reshape(Shape extents) const {
  if (!contiguous() || extents.elements() != elements())
    fail("a tensor of shape {} can't be viewed as {}", to_string(shape), to_string(extents));
  return Tensor(data, dtype, extents, device);
}

void HostBuffer::Free::operator()(void* memory) const {
  ::operator delete (memory, std::align_val_t{64});
}

HostBuffer::HostBuffer(std::size_t bytes) : size_(bytes) {
  memory_.reset(::operator new (std::max<std::size_t>(bytes, 1), std::align_val_t{64}));
  std::memset(memory_.get(), 0, bytes);
}

HostTensor::HostTensor(DType dtype, Shape shape)
    : buffer_(bytes_for(dtype, shape.elements())), view_(buffer_.data(), dtype, shape) {}

double element_as_double(const Tensor& tensor, std::int64_t offset) {
  switch (tensor.dtype) {
    case DType::f64: return tensor.as<double>()[offset];
    case DType::f32: return static_cast<double>(tensor.as<float>()[offset]);
    case DType::f16: return static_cast<double>(to_float(tensor.as<f16>()[offset]));
    case DType::bf16: return static_cast<double>(to_float(tensor.as<bf16>()[offset]));
    case DType::i64: return static_cast<double>(tensor.as<std::int64_t>()[offset]);
    case DType::i32: return static_cast<double>(tensor.as<std::int32_t>()[offset]);
    case DType::i16: return static_cast<double>(tensor.as<std::int16_t>()[offset]);
    case DType::i8: return static_cast<double>(tensor.as<std::int8_t>()[offset]);
    case DType::u8:
    case DType::boolean: return static_cast<double>(tensor.as<std::uint8_t>()[offset]);
    default: break;
  }
  if (is_quantized(tensor.dtype)) {
    const std::int64_t in_block = offset % block_elements(tensor.dtype);
    std::array<float, max_block_elements> block;
    dequantize(tensor.dtype, tensor.as<std::byte>() + bytes_for(tensor.dtype, offset - in_block),
               std::span(block).first(static_cast<std::size_t>(block_elements(tensor.dtype))));
    return static_cast<double>(block[static_cast<std::size_t>(in_block)]);
  }
  fail("dtype {} can't be read as a number", static_cast<int>(tensor.dtype));
}

namespace {

/// Rounds once: a double that goes to a 16-bit type by way of float could round twice, so values come as floats where
/// the source is no wider than one, and f64 sources are nudged to odd first (round-to-odd keeps the second rounding
/// exact; Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums").
float to_float_rounded_to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || !(nearest - nearest == 0.0F)) return nearest;
  std::uint32_t bits = std::bit_cast<std::uint32_t>(nearest);
  if ((bits & 1U) != 0) return nearest;
  const bool magnitude_grew = (static_cast<double>(nearest) > value) == (value > 0);
  bits = magnitude_grew ? bits - 1 : bits + 1;
  return std::bit_cast<float>(bits);
}

void store(const Tensor& tensor, std::int64_t offset, double value) {
  switch (tensor.dtype) {
    case DType::f64: tensor.as<double>()[offset] = value; return;
    case DType::f32: tensor.as<float>()[offset] = static_cast<float>(value); return;
    case DType::f16: tensor.as<f16>()[offset] = to_f16(to_float_rounded_to_odd(value)); return;
    case DType::bf16: tensor.as<bf16>()[offset] = to_bf16(to_float_rounded_to_odd(value)); return;
    default: fail("values can't be converted to {}", name(tensor.dtype));
  }
}

/// Calls visit(from_offset, to_offset, run) for each innermost row, outermost dimensions first.
template <class Visit>
void for_each_row(const Tensor& from, const Tensor& to, Visit&& visit) {
  if (from.elements() == 0) return;
  std::array<std::int64_t, Shape::max_rank> index{};
  const int outer = from.rank() - 1;
  while (true) {
    std::int64_t from_offset = 0, to_offset = 0;
    for (int d = 0; d < outer; ++d) {
      from_offset += index[static_cast<std::size_t>(d)] * from.stride(d);
      to_offset += index[static_cast<std::size_t>(d)] * to.stride(d);
    }
    visit(from_offset, to_offset);
    int d = outer - 1;
    for (; d >= 0; --d) {
      if (++index[static_cast<std::size_t>(d)] < from.size(d)) break;
      index[static_cast<std::size_t>(d)] = 0;
    }
    if (d < 0) return;
  }
}

std::byte* at(const Tensor& tensor, std::int64_t offset) {
  return tensor.as<std::byte>() + bytes_for(tensor.dtype, offset);
}

/// Equal dtypes: the bytes as they are.
void copy_rows(const Tensor& from, const Tensor& to, std::int64_t run, std::int64_t from_step, std::int64_t to_step) {
  for_each_row(from, to, [&](std::int64_t from_offset, std::int64_t to_offset) {
    if (from_step == 1 && to_step == 1) {
      std::memcpy(at(to, to_offset), at(from, from_offset), bytes_for(from.dtype, run));
      return;
    }
    for (std::int64_t i = 0; i < run; ++i)
      std::memcpy(at(to, to_offset + i * to_step), at(from, from_offset + i * from_step), element_size(from.dtype));
  });
}

template <class T>
void widen(const T* from, std::span<float> to) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = to_float(from[i]);
}

/// Elements of any floating or quantised dtype as f32, `step` apart.
void read_row(const Tensor& from, std::int64_t offset, std::int64_t step, std::span<float> to) {
  const std::byte* row = at(from, offset);
  if (is_quantized(from.dtype)) return dequantize(from.dtype, row, to);
  if (step == 1 && from.dtype == DType::f32)
    std::memcpy(to.data(), row, to.size_bytes());
  else if (step == 1 && from.dtype == DType::bf16)
    widen(reinterpret_cast<const bf16*>(row), to);
  else if (step == 1 && from.dtype == DType::f16)
    widen(reinterpret_cast<const f16*>(row), to);
  else
    for (std::size_t i = 0; i < to.size(); ++i)
      to[i] = static_cast<float>(element_as_double(from, offset + static_cast<std::int64_t>(i) * step));
}

/// Where blocks are on one side or both: a row at a time by way of f32.
void convert_quantized(const Tensor& from, const Tensor& to, std::int64_t run, std::int64_t from_step,
                       std::int64_t to_step) {
  std::vector<float> row(static_cast<std::size_t>(run));
  for_each_row(from, to, [&](std::int64_t from_offset, std::int64_t to_offset) {
    read_row(from, from_offset, from_step, row);
    if (is_quantized(to.dtype)) return quantize(to.dtype, row, at(to, to_offset));
    if (to.dtype == DType::f32 && to_step == 1) {
      std::memcpy(at(to, to_offset), row.data(), std::span(row).size_bytes());
      return;
    }
    for (std::size_t i = 0; i < row.size(); ++i)
      store(to, to_offset + static_cast<std::int64_t>(i) * to_step, static_cast<double>(row[i]));
  });
}

}  // namespace

void convert(const Tensor& from, const Tensor& to) {
  require(from.shape == to.shape, "a tensor of shape {} can't be copied into one of shape {}", to_string(from.shape),
          to_string(to.shape));
  if (from.dtype == to.dtype && from.contiguous() && to.contiguous()) {
    if (from.elements() != 0) std::memcpy(to.data, from.data, from.bytes());
    return;
  }
  const std::int64_t run = from.rank() == 0 ? 1 : from.size(-1);
  const std::int64_t from_step = from.rank() == 0 ? 1 : from.stride(-1);
  const std::int64_t to_step = to.rank() == 0 ? 1 : to.stride(-1);
  if (from.dtype == to.dtype) return copy_rows(from, to, run, from_step, to_step);
  if (is_quantized(from.dtype) || is_quantized(to.dtype)) return convert_quantized(from, to, run, from_step, to_step);
  for_each_row(from, to, [&](std::int64_t from_offset, std::int64_t to_offset) {
    for (std::int64_t i = 0; i < run; ++i)
      store(to, to_offset + i * to_step, element_as_double(from, from_offset + i * from_step));
  });
}

}  // namespace mamba2
