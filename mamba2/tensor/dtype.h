#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace mamba2 {

/// Element types of tensors, in files and in memory.  The q types hold a row as blocks of 32 (q8_0 ... q5_1) or 256
/// (q4_k, q5_k, q6_k) elements that share scales, laid out as GGUF has them: mamba2/tensor/quantized.h.
enum class DType : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  i64,
  i32,
  i16,
  i8,
  u8,
  boolean,
  q8_0,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q4_k,
  q5_k,
  q6_k
};

/// Our name of it: "f32", "bf16", "q4_k", ...
std::string_view name(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);

/// Bytes of one element.  Throws Error for a quantised dtype, whose elements have no bytes of their own.
std::size_t element_size(DType dtype);
/// Plain floating point: f64, f32, f16, bf16.
bool is_floating(DType dtype);
/// Blocks with shared scales: q8_0, ..., q6_k.
bool is_quantized(DType dtype);

/// Elements that can only be stored together: 32 or 256 where the dtype is quantised, else 1.
std::int64_t block_elements(DType dtype);
/// Bytes of one block.
std::size_t bytes_per_block(DType dtype);
/// Bytes of `elements` elements end to end.  Throws Error where they are no whole number of blocks.
std::size_t bytes_for(DType dtype, std::int64_t elements);

/// IEEE 754 binary16 and the upper half of binary32, as bit patterns.
struct f16 {
  std::uint16_t bits;
};
struct bf16 {
  std::uint16_t bits;
};

/// Exact: every f16 and bf16 is a float.
float to_float(f16 value);
inline float to_float(bf16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

/// Rounded to nearest, ties to even; NaN stays NaN; f16 overflows to infinity.
f16 to_f16(float value);
bf16 to_bf16(float value);

}  // namespace mamba2
