#include <cstring>

#include "mamba2/base/error.h"
#include "mamba2/tensor/quantized.h"

namespace mamba2 {
namespace {

void read_block(const BlockQ8_0& block, float* to) {
  const float d = to_float(block.d);
  for (std::size_t i = 0; i < 32; ++i) to[i] = d * static_cast<float>(block.q[i]);
}

void read_block(const BlockQ4_0& block, float* to) {
  const float d = to_float(block.d);
  for (std::size_t i = 0; i < 16; ++i) {
    to[i] = d * static_cast<float>((block.q[i] & 15) - 8);
    to[i + 16] = d * static_cast<float>((block.q[i] >> 4) - 8);
  }
}

void read_block(const BlockQ4_1& block, float* to) {
  const float d = to_float(block.d), m = to_float(block.m);
  for (std::size_t i = 0; i < 16; ++i) {
    to[i] = d * static_cast<float>(block.q[i] & 15) + m;
    to[i + 16] = d * static_cast<float>(block.q[i] >> 4) + m;
  }
}

/// Element i of 32, five bits.
int five_bits(const std::array<std::uint8_t, 4>& high, const std::array<std::uint8_t, 16>& q, std::size_t i) {
  const int low = i < 16 ? q[i] & 15 : q[i - 16] >> 4;
  return low | ((high[i / 8] >> (i % 8) & 1) << 4);
}

void read_block(const BlockQ5_0& block, float* to) {
  const float d = to_float(block.d);
  for (std::size_t i = 0; i < 32; ++i) to[i] = d * static_cast<float>(five_bits(block.high, block.q, i) - 16);
}

void read_block(const BlockQ5_1& block, float* to) {
  const float d = to_float(block.d), m = to_float(block.m);
  for (std::size_t i = 0; i < 32; ++i) to[i] = d * static_cast<float>(five_bits(block.high, block.q, i)) + m;
}

/// Four bits of element i of group g: pairs of groups share 32 bytes.
int four_bits(const std::array<std::uint8_t, 128>& q, std::size_t g, std::size_t i) {
  const std::uint8_t both = q[g / 2 * 32 + i];
  return g % 2 == 0 ? both & 15 : both >> 4;
}

void read_block(const BlockQ4K& block, float* to) {
  const float d = to_float(block.d), dmin = to_float(block.dmin);
  const ScalesK scales = unpack_scales(block.scales);
  for (std::size_t g = 0; g < 8; ++g) {
    const float scale = d * static_cast<float>(scales.scale[g]), min = dmin * static_cast<float>(scales.min[g]);
    for (std::size_t i = 0; i < 32; ++i) *to++ = scale * static_cast<float>(four_bits(block.q, g, i)) - min;
  }
}

void read_block(const BlockQ5K& block, float* to) {
  const float d = to_float(block.d), dmin = to_float(block.dmin);
  const ScalesK scales = unpack_scales(block.scales);
  for (std::size_t g = 0; g < 8; ++g) {
    const float scale = d * static_cast<float>(scales.scale[g]), min = dmin * static_cast<float>(scales.min[g]);
    for (std::size_t i = 0; i < 32; ++i) {
      const int q = four_bits(block.q, g, i) | ((block.high[i] >> g & 1) << 4);
      *to++ = scale * static_cast<float>(q) - min;
    }
  }
}

void read_block(const BlockQ6K& block, float* to) {
  const float d = to_float(block.d);
  for (std::size_t i = 0; i < 256; ++i) {
    const std::size_t half = i / 128, in_half = i % 128, quarter = in_half / 32;
    const std::uint8_t both = block.low[half * 64 + in_half % 64];
    const int low = quarter < 2 ? both & 15 : both >> 4;
    const int high = block.high[half * 32 + in_half % 32] >> (2 * quarter) & 3;
    to[i] = d * static_cast<float>(block.scales[i / 16]) * static_cast<float>((low | (high << 4)) - 32);
  }
}

template <class Block>
void read_blocks(const std::byte* blocks, std::span<float> to, std::size_t elements) {
  for (std::size_t i = 0; i < to.size(); i += elements, blocks += sizeof(Block)) {
    Block block;
    std::memcpy(&block, blocks, sizeof block);
    read_block(block, to.data() + i);
  }
}

}  // namespace

ScalesK unpack_scales(const std::array<std::uint8_t, 12>& packed) {
  ScalesK scales;
  for (std::size_t g = 0; g < 4; ++g) {
    scales.scale[g] = packed[g] & 63;
    scales.min[g] = packed[g + 4] & 63;
    scales.scale[g + 4] = static_cast<std::uint8_t>((packed[g + 8] & 15) | (packed[g] >> 6 << 4));
    scales.min[g + 4] = static_cast<std::uint8_t>((packed[g + 8] >> 4) | (packed[g + 4] >> 6 << 4));
  }
  return scales;
}

void dequantize(DType dtype, const std::byte* blocks, std::span<float> to) {
  const auto elements = static_cast<std::size_t>(block_elements(dtype));
  require(to.size() % elements == 0, "{} elements are no whole number of {}'s blocks of {}", to.size(), name(dtype),
          elements);
  switch (dtype) {
    case DType::q8_0: return read_blocks<BlockQ8_0>(blocks, to, elements);
    case DType::q4_0: return read_blocks<BlockQ4_0>(blocks, to, elements);
    case DType::q4_1: return read_blocks<BlockQ4_1>(blocks, to, elements);
    case DType::q5_0: return read_blocks<BlockQ5_0>(blocks, to, elements);
    case DType::q5_1: return read_blocks<BlockQ5_1>(blocks, to, elements);
    case DType::q4_k: return read_blocks<BlockQ4K>(blocks, to, elements);
    case DType::q5_k: return read_blocks<BlockQ5K>(blocks, to, elements);
    case DType::q6_k: return read_blocks<BlockQ6K>(blocks, to, elements);
    default: fail("{} is no quantised dtype", name(dtype));
  }
}

}  // namespace mamba2
