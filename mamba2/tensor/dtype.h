#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace mamba2 {

/// Element types of tensors, in files and in memory.
enum class DType : std::uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };

/// Our name of it: "f32", "bf16", ...
std::string_view name(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);

/// Bytes of one element.
std::size_t element_size(DType dtype);
bool is_floating(DType dtype);

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
