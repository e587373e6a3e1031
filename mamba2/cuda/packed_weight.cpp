#include "mamba2/cuda/packed_weight.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "mamba2/base/error.h"
#include "mamba2/cuda/packed_format.h"
#include "mamba2/tensor/quantized.h"

namespace mamba2::cuda {
namespace {

/// Calls f(std::integral_constant<DType, ...>) with a packed dtype.
template <class F>
auto with_packed(DType dtype, F&& f) {
  switch (dtype) {
    case DType::q8_0: return f(std::integral_constant<DType, DType::q8_0>());
    case DType::q4_0: return f(std::integral_constant<DType, DType::q4_0>());
    case DType::q4_k: return f(std::integral_constant<DType, DType::q4_k>());
    case DType::q6_k: return f(std::integral_constant<DType, DType::q6_k>());
    default: fail("{} is held in blocks by no kernel", name(dtype));
  }
}

/// Where a row's bits go in the unit of its four.
struct Cells {
  std::byte* unit;
  int row;

  /// Word i of those that lane t has of all pieces.
  void put_quants(int t, int i, std::uint32_t word) const {
    std::memcpy(unit + i / 4 * piece_bytes + (four_rows * row + t) * cell_bytes + i % 4 * 4, &word, sizeof word);
  }
  template <DType Type>
  std::byte* header(int i) const {
    return unit + PackedFormat<Type>::pieces * piece_bytes + i * header_bytes + row * cell_bytes;
  }
};

std::uint32_t word_at(const void* from, int byte) {
  std::uint32_t word = 0;
  std::memcpy(&word, static_cast<const std::byte*>(from) + byte, sizeof word);
  return word;
}

/// Nibbles of e0 to e3, a byte each, as a packed word has them.
std::uint32_t spread_nibbles(std::uint32_t n) {
  return ((n | n >> 12) & 0xFFU) | ((n >> 8 | n >> 20) & 0xFFU) << 16;
}
/// The same for two bits each.
std::uint32_t spread_pairs(std::uint32_t n) {
  return ((n | n >> 14) & 0xFU) | ((n >> 8 | n >> 22) & 0xFU) << 16;
}

constexpr std::uint32_t low_nibbles = 0x0F0F0F0F;

/// Packs `number`th block of 32 of a unit.
void pack_block(const BlockQ8_0& block, int number, const Cells& to) {
  for (int t = 0; t < 4; ++t) {
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t w = word_at(block.q.data(), 16 * half + 4 * t);
      to.put_quants(t, 2 * number + half, (w & 0xFF0000FFU) | (w & 0xFF00U) << 8 | (w & 0xFF0000U) >> 8);
    }
  }
  std::memcpy(to.header<DType::q8_0>(0) + 2 * number, &block.d, sizeof block.d);
}

void pack_block(const BlockQ4_0& block, int number, const Cells& to) {
  for (int t = 0; t < 4; ++t) {
    const std::uint32_t w = word_at(block.q.data(), 4 * t);
    to.put_quants(t, number, spread_nibbles(w & low_nibbles) | spread_nibbles(w >> 4 & low_nibbles) << 8);
  }
  std::memcpy(to.header<DType::q4_0>(0) + 2 * number, &block.d, sizeof block.d);
}

/// Packs a block of 256, which is a unit's.
void pack_block(const BlockQ4K& block, int, const Cells& to) {
  for (int g = 0; g < unit_blocks; ++g) {
    for (int t = 0; t < 4; ++t) {
      const int from = g / 2 * 32 + 4 * t, shift = g % 2 * 4;
      const std::uint32_t first = word_at(block.q.data(), from) >> shift & low_nibbles;
      const std::uint32_t second = word_at(block.q.data(), from + 16) >> shift & low_nibbles;
      to.put_quants(t, g, spread_nibbles(first) | spread_nibbles(second) << 8);
    }
  }
  const ScalesK scales = unpack_scales(block.scales);
  const std::uint32_t both = block.d.bits | static_cast<std::uint32_t>(block.dmin.bits) << 16;
  for (std::size_t t = 0; t < 4; ++t) {
    const std::uint32_t word = scales.scale[2 * t] | scales.scale[2 * t + 1] << 6 | scales.min[2 * t] << 12 |
                               scales.min[2 * t + 1] << 18 | (both >> (8 * t) & 0xFFU) << 24;
    std::memcpy(to.header<DType::q4_k>(0) + 4 * t, &word, sizeof word);
  }
}

void pack_block(const BlockQ6K& block, int, const Cells& to) {
  for (int t = 0; t < 4; ++t) {
    std::uint32_t upper[unit_blocks / 2] = {};
    for (int g = 0; g < unit_blocks; ++g) {
      const int half = g / 4, quarter = g % 4;
      std::uint32_t lower = 0, upper_byte = 0;
      for (int second = 0; second < 2; ++second) {
        const int column = 16 * second + 4 * t;
        const std::uint32_t low = word_at(block.low.data(), 64 * half + 32 * (quarter % 2) + column);
        const std::uint32_t high = word_at(block.high.data(), 32 * half + column);
        lower |= spread_nibbles(low >> (quarter < 2 ? 0 : 4) & low_nibbles) << (8 * second);
        upper_byte |= spread_pairs(high >> (2 * quarter) & 0x03030303U) << (4 * second);
      }
      to.put_quants(t, g, lower);
      upper[g / 2] |= upper_byte << (8 * (g % 2));
    }
    for (int i = 0; i < unit_blocks / 2; ++i) to.put_quants(t, upper_bits_word(2 * i), upper[i]);
  }
  std::memcpy(to.header<DType::q6_k>(0), block.scales.data(), block.scales.size());
  std::memcpy(to.header<DType::q6_k>(1), &block.d, sizeof block.d);
}

template <class Block, DType Type>
void pack_rows(const Tensor& host, std::byte* to) {
  const std::int64_t elements = block_elements(Type), in_unit = unit_columns / elements;
  const std::int64_t blocks = host.size(1) / elements, units = (host.size(1) + unit_columns - 1) / unit_columns;
  const auto* from = static_cast<const std::byte*>(host.data);
  for (std::int64_t row = 0; row < host.size(0); ++row) {
    std::byte* const four = to + row / four_rows * units * PackedFormat<Type>::unit_bytes;
    for (std::int64_t i = 0; i < blocks; ++i, from += sizeof(Block)) {
      Block block;
      std::memcpy(&block, from, sizeof block);
      const Cells cells{four + i / in_unit * PackedFormat<Type>::unit_bytes, static_cast<int>(row % four_rows)};
      pack_block(block, static_cast<int>(i % in_unit), cells);
    }
  }
}

std::size_t times(std::size_t a, std::size_t b) {
  require(b == 0 || a <= std::numeric_limits<std::size_t>::max() / b, "a matrix of {} x {} bytes is too large", a, b);
  return a * b;
}

}  // namespace

bool is_packed(DType dtype) {
  return dtype == DType::q8_0 || dtype == DType::q4_0 || dtype == DType::q4_k || dtype == DType::q6_k;
}

std::size_t packed_bytes(DType dtype, std::int64_t rows, std::int64_t columns) {
  require(rows >= 0 && columns >= 0, "a matrix is ({}, {})", rows, columns);
  const auto unit = static_cast<std::size_t>(
      with_packed(dtype, [](auto type) { return PackedFormat<decltype(type)::value>::unit_bytes; }));
  const auto fours = static_cast<std::size_t>(rows / four_rows + (rows % four_rows != 0 ? 1 : 0));
  const auto units = static_cast<std::size_t>(columns / unit_columns + (columns % unit_columns != 0 ? 1 : 0));
  return times(fours, times(units, unit));
}

void pack(const Tensor& host, std::span<std::byte> to) {
  require(host.rank() == 2 && host.contiguous() && to.size() == packed_bytes(host.dtype, host.size(0), host.size(1)),
          "pack: {} {} into {} bytes", name(host.dtype), to_string(host.shape), to.size());
  std::fill(to.begin(), to.end(), std::byte{0});
  switch (host.dtype) {
    case DType::q8_0: return pack_rows<BlockQ8_0, DType::q8_0>(host, to.data());
    case DType::q4_0: return pack_rows<BlockQ4_0, DType::q4_0>(host, to.data());
    case DType::q4_k: return pack_rows<BlockQ4K, DType::q4_k>(host, to.data());
    default: return pack_rows<BlockQ6K, DType::q6_k>(host, to.data());
  }
}

}  // namespace mamba2::cuda
