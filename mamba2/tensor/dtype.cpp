#include "mamba2/tensor/dtype.h"

#include <array>
#include <cmath>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

enum class Kind : std::uint8_t { floating, integer, quantized };

struct Description {
  DType dtype;
  std::string_view name;
  std::int64_t elements;  // of a block
  std::size_t bytes;      // of a block
  Kind kind;
};

constexpr std::array<Description, 18> descriptions{{{DType::f64, "f64", 1, 8, Kind::floating},
                                                    {DType::f32, "f32", 1, 4, Kind::floating},
                                                    {DType::f16, "f16", 1, 2, Kind::floating},
                                                    {DType::bf16, "bf16", 1, 2, Kind::floating},
                                                    {DType::i64, "i64", 1, 8, Kind::integer},
                                                    {DType::i32, "i32", 1, 4, Kind::integer},
                                                    {DType::i16, "i16", 1, 2, Kind::integer},
                                                    {DType::i8, "i8", 1, 1, Kind::integer},
                                                    {DType::u8, "u8", 1, 1, Kind::integer},
                                                    {DType::boolean, "bool", 1, 1, Kind::integer},
                                                    {DType::q8_0, "q8_0", 32, 34, Kind::quantized},
                                                    {DType::q4_0, "q4_0", 32, 18, Kind::quantized},
                                                    {DType::q4_1, "q4_1", 32, 20, Kind::quantized},
                                                    {DType::q5_0, "q5_0", 32, 22, Kind::quantized},
                                                    {DType::q5_1, "q5_1", 32, 24, Kind::quantized},
                                                    {DType::q4_k, "q4_k", 256, 144, Kind::quantized},
                                                    {DType::q5_k, "q5_k", 256, 176, Kind::quantized},
                                                    {DType::q6_k, "q6_k", 256, 210, Kind::quantized}}};

const Description& describe(DType dtype) {
  return descriptions[static_cast<std::size_t>(dtype)];
}

}  // namespace

std::string_view name(DType dtype) {
  return describe(dtype).name;
}

std::optional<DType> parse_dtype(std::string_view name) {
  for (const Description& d : descriptions)
    if (d.name == name) return d.dtype;
  return std::nullopt;
}

std::size_t element_size(DType dtype) {
  require(!is_quantized(dtype), "{} has no size of one element, it is stored by blocks of {}", name(dtype),
          block_elements(dtype));
  return describe(dtype).bytes;
}

bool is_floating(DType dtype) {
  return describe(dtype).kind == Kind::floating;
}

bool is_quantized(DType dtype) {
  return describe(dtype).kind == Kind::quantized;
}

std::int64_t block_elements(DType dtype) {
  return describe(dtype).elements;
}

std::size_t bytes_per_block(DType dtype) {
  return describe(dtype).bytes;
}

std::size_t bytes_for(DType dtype, std::int64_t elements) {
  const Description& d = describe(dtype);
  require(elements % d.elements == 0, "{} elements are no whole number of {}'s blocks of {}", elements, d.name,
          d.elements);
  return static_cast<std::size_t>(elements / d.elements) * d.bytes;
}

float to_float(f16 value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000U) << 16;
  const std::uint32_t exponent = (value.bits >> 10) & 0x1FU;
  const std::uint32_t fraction = value.bits & 0x3FFU;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000U | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
  return sign != 0 ? -magnitude : magnitude;
}

f16 to_f16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  auto signed_bits = [sign](std::uint32_t low) { return f16{static_cast<std::uint16_t>(sign | low)}; };
  if (magnitude > 0x7F800000U) return signed_bits(0x7E00U | ((magnitude >> 13) & 0x3FFU));
  // 65520 is halfway between the largest f16 and the next power of two
  if (magnitude >= std::bit_cast<std::uint32_t>(65520.0F)) return signed_bits(0x7C00U);
  if (magnitude < std::bit_cast<std::uint32_t>(0x1p-14F)) {
    // subnormal: an exact scaling, then the processor's own rounding to an integer (to nearest, ties to even)
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24F;
    return signed_bits(static_cast<std::uint32_t>(std::nearbyint(scaled)));
  }
  const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
  return signed_bits((rounded >> 13) - (112U << 10));
}

bf16 to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return bf16{static_cast<std::uint16_t>((bits >> 16) | 0x40U)};
  return bf16{static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16)};
}

}  // namespace mamba2
