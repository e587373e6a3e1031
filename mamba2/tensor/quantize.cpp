#include <algorithm>
#include <cmath>
#include <cstring>

#include "mamba2/base/error.h"
#include "mamba2/tensor/quantized.h"

namespace mamba2 {
namespace {

/// The first of the elements with the largest magnitude.
float extreme(std::span<const float, 32> from) {
  return *std::max_element(from.begin(), from.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
}

/// 1 / d; where d is so small that this overflows, every element is 0 as an f16 scale gives it.
float reciprocal(float d) {
  const float inverse = d == 0.0F ? 0.0F : 1.0F / d;
  return std::isfinite(inverse) ? inverse : 0.0F;
}

BlockQ8_0 quantize_q8_0(std::span<const float, 32> from) {
  BlockQ8_0 block;
  const float d = std::abs(extreme(from)) / 127.0F, inverse = reciprocal(d);
  block.d = to_f16(d);
  for (std::size_t i = 0; i < 32; ++i) block.q[i] = static_cast<std::int8_t>(std::round(from[i] * inverse));
  return block;
}

/// The extreme becomes -8, which is a step further out than +7.
BlockQ4_0 quantize_q4_0(std::span<const float, 32> from) {
  BlockQ4_0 block;
  const float d = extreme(from) / -8.0F, inverse = reciprocal(d);
  block.d = to_f16(d);
  auto four_bits = [inverse](float x) { return std::min(15, static_cast<int>(x * inverse + 8.5F)); };
  for (std::size_t i = 0; i < 16; ++i)
    block.q[i] = static_cast<std::uint8_t>(four_bits(from[i]) | (four_bits(from[i + 16]) << 4));
  return block;
}

template <std::size_t elements, class Quantize>
void write_blocks(std::span<const float> from, std::byte* blocks, Quantize&& quantize_block) {
  for (std::size_t i = 0; i < from.size(); i += elements) {
    const auto block = quantize_block(std::span<const float, elements>(from.data() + i, elements));
    std::memcpy(blocks, &block, sizeof block);
    blocks += sizeof block;
  }
}

/// A scale is at most the largest magnitude / 7.5 and has to be a finite f16.
void check_values(DType dtype, std::span<const float> from) {
  constexpr float largest = 65504.0F * 7.5F;
  for (const float value : from)
    require(std::abs(value) <= largest, "{} can't be held as {}, expected a magnitude up to {}", value, name(dtype),
            largest);
}

}  // namespace

bool can_quantize(DType dtype) {
  return dtype == DType::q8_0 || dtype == DType::q4_0 || dtype == DType::q4_k || dtype == DType::q6_k;
}

void quantize(DType dtype, std::span<const float> from, std::byte* blocks) {
  require(can_quantize(dtype), "values can't be converted to {}, expected q8_0, q4_0, q4_k or q6_k", name(dtype));
  const std::int64_t elements = block_elements(dtype);
  require(from.size() % static_cast<std::size_t>(elements) == 0,
          "a row of {} elements can't be {}, expected whole blocks of {}", from.size(), name(dtype), elements);
  check_values(dtype, from);
  switch (dtype) {
    case DType::q8_0: return write_blocks<32>(from, blocks, quantize_q8_0);
    case DType::q4_0: return write_blocks<32>(from, blocks, quantize_q4_0);
    case DType::q4_k: return write_blocks<256>(from, blocks, quantize_q4_k);
    default: return write_blocks<256>(from, blocks, quantize_q6_k);
  }
}

}  // namespace mamba2
