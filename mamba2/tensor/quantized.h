#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "mamba2/tensor/dtype.h"

/// Block-quantised elements, bit for bit as GGUF files hold them.  A block's fields follow each other without gaps, so
/// that a row of blocks in a mapped file is an array of these structs, at any address that is a multiple of 2.
namespace mamba2 {

/// element[i] = d q[i]
struct BlockQ8_0 {
  f16 d;
  std::array<std::int8_t, 32> q;
};

/// Two elements a byte: element i in the low half of q[i], element i + 16 in the high half.  element = d (q - 8)
struct BlockQ4_0 {
  f16 d;
  std::array<std::uint8_t, 16> q;
};

/// element = d q + m
struct BlockQ4_1 {
  f16 d, m;
  std::array<std::uint8_t, 16> q;
};

/// A fifth bit of element i is bit i of `high`, a little-endian integer.  element = d (q - 16)
struct BlockQ5_0 {
  f16 d;
  std::array<std::uint8_t, 4> high;
  std::array<std::uint8_t, 16> q;
};

/// element = d q + m
struct BlockQ5_1 {
  f16 d, m;
  std::array<std::uint8_t, 4> high;
  std::array<std::uint8_t, 16> q;
};

/// Eight groups of 32: element = (d scale) q - (dmin min), scale and min of 6 bits as ScalesK packs them.  Of each pair
/// of groups the first lies in the low halves of 32 bytes of q, the second in their high halves.
struct BlockQ4K {
  f16 d, dmin;
  std::array<std::uint8_t, 12> scales;
  std::array<std::uint8_t, 128> q;
};

/// As BlockQ4K; group g's fifth bits are bit g of the 32 bytes of `high`.
struct BlockQ5K {
  f16 d, dmin;
  std::array<std::uint8_t, 12> scales;
  std::array<std::uint8_t, 32> high;
  std::array<std::uint8_t, 128> q;
};

/// Sixteen groups of 16: element = (d scale) (q - 32).  Of each half of 128 elements, element i has its low four bits
/// in `low`: i < 64 in the low halves of 64 bytes, else in the high halves; its upper two are bits 2(i / 32) and up of
/// byte i % 32 of 32 bytes of `high`.
struct BlockQ6K {
  std::array<std::uint8_t, 128> low;
  std::array<std::uint8_t, 64> high;
  std::array<std::int8_t, 16> scales;
  f16 d;
};

static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20);
static_assert(sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24 && sizeof(BlockQ4K) == 144);
static_assert(sizeof(BlockQ5K) == 176 && sizeof(BlockQ6K) == 210);

inline constexpr std::size_t max_block_elements = 256;

/// The 6-bit scales and mins of a block's eight groups.
struct ScalesK {
  std::array<std::uint8_t, 8> scale, min;
};

/// Groups 0 to 3 have theirs in the low six bits of bytes 0 to 3 (scales) and 4 to 7 (mins).  Groups 4 to 7 have their
/// low four bits in bytes 8 to 11, scales in the low halves, and their upper two in the upper two of bytes 0 to 7.
ScalesK unpack_scales(const std::array<std::uint8_t, 12>& packed);
std::array<std::uint8_t, 12> pack_scales(const ScalesK& scales);

/// Reads to.size() elements, a whole number of blocks.  Exactly GGUF's values: each product and sum rounded to f32
/// once.
void dequantize(DType dtype, const std::byte* blocks, std::span<float> to);

/// Whether quantize() writes it: q8_0, q4_0, q4_k, q6_k.
bool can_quantize(DType dtype);

/// Writes from.size() elements, a whole number of blocks.  q8_0 and q4_0 scale by the largest magnitude, rounding to
/// nearest.  q4_k and q6_k search each group's scale (and min) for the least weighted square error.  Throws Error for a
/// dtype that can't be written and for values that are not finite or too large for an f16 scale.
void quantize(DType dtype, std::span<const float> from, std::byte* blocks);

/// One block of 256 elements; what quantize() is made of.
BlockQ4K quantize_q4_k(std::span<const float, 256> from);
BlockQ6K quantize_q6_k(std::span<const float, 256> from);

}  // namespace mamba2
