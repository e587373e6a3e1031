#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "mamba2/tensor/dtype.h"

namespace mamba2 {

/// Up to five dimensions, outermost first.  Every extent is >= 0 and the product fits int64 (checked when made).
class Shape {
 public:
  static constexpr int max_rank = 5;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);
  explicit Shape(std::span<const std::int64_t> extents);

  int rank() const { return rank_; }
  /// Extent i; negative i counts from the end.
  std::int64_t operator[](int i) const { return extents_[static_cast<std::size_t>(i < 0 ? i + rank_ : i)]; }
  /// 1 for rank 0.
  std::int64_t elements() const;
  std::span<const std::int64_t> extents() const { return {extents_.data(), static_cast<std::size_t>(rank_)}; }
  bool operator==(const Shape& other) const = default;

 private:
  std::array<std::int64_t, max_rank> extents_{};
  int rank_ = 0;
};

/// "(24, 768, 1, 4)"
std::string to_string(const Shape& shape);

enum class DeviceKind : std::uint8_t { host, cuda };

/// Where a tensor's bytes lie.
struct Device {
  DeviceKind kind = DeviceKind::host;
  std::int8_t index = 0;
  bool operator==(const Device&) const = default;
};

/// A view of memory that somebody else owns: the Buffer, MappedFile or vector behind it must outlive it.  Strides count
/// elements.  A default-made Tensor is absent: empty() is true, ops take it where an operand is optional.  Where the
/// dtype is quantised the innermost dimension is contiguous and a whole number of blocks, in every view of it.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  Device device;
  Shape shape;
  std::array<std::int64_t, Shape::max_rank> strides{};

  Tensor() = default;
  /// Rows end to end without gaps.  Throws Error where rows of a quantised dtype are no whole number of blocks.
  Tensor(void* memory, DType type, Shape extents, Device where = {});

  bool empty() const { return data == nullptr && shape.rank() == 0; }
  int rank() const { return shape.rank(); }
  std::int64_t size(int i) const { return shape[i]; }
  std::int64_t stride(int i) const { return strides[static_cast<std::size_t>(i < 0 ? i + rank() : i)]; }
  std::int64_t elements() const { return shape.elements(); }
  std::size_t bytes() const { return bytes_for(dtype, elements()); }
  bool contiguous() const;

  /// Elements [start, start + count) of dimension i, as a view.
  Tensor slice(int i, std::int64_t start, std::int64_t count) const;
  /// Element `index` of the outermost dimension, one rank less.
  Tensor operator[](std::int64_t index) const;
  /// The same elements under other extents; only where the view is contiguous.
  Tensor reshape(Shape extents) const;

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

/// Host memory, zeroed, aligned to 64 bytes (a cache line and an AVX-512 register), owned.
class HostBuffer {
 public:
  HostBuffer() = default;
  explicit HostBuffer(std::size_t bytes);
  void* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  std::unique_ptr<void, Free> memory_;
  std::size_t size_ = 0;
};

/// A tensor and the host memory it lies in.
class HostTensor {
 public:
  HostTensor() = default;
  HostTensor(DType dtype, Shape shape);
  const Tensor& view() const { return view_; }
  operator const Tensor&() const { return view_; }  // NOLINT(google-explicit-constructor): it is one
  template <class T>
  std::span<T> span() const {
    return {view_.as<T>(), static_cast<std::size_t>(view_.elements())};
  }

 private:
  HostBuffer buffer_;
  Tensor view_;
};

/// Copies a host tensor of any strides and floating or quantised dtype into one of the same shape and any floating
/// dtype (f64, f32, f16, bf16), rounding to nearest, or a dtype that quantize() writes.  Equal dtypes copy as they are.
/// Throws Error where shapes differ.
void convert(const Tensor& from, const Tensor& to);

/// One element of a host tensor as double, by its offset in elements from data.
double element_as_double(const Tensor& tensor, std::int64_t offset);

}  // namespace mamba2
