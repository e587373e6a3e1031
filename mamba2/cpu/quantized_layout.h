#pragma once

#include <cstdint>

#include "mamba2/tensor/dtype.h"

/// How the cpu backend lays a quantised matrix out, and the rows that it multiplies with it.  Constants alone: kernels
/// include this.
///
/// A matrix is cut into panels of panel_rows rows; rows past the last are zero blocks.  A panel holds the bits of its
/// rows' blocks (mamba2/tensor/quantized.h) and nothing else, in another order.  For each pair of blocks of the rows:
/// the f16 fields of both, [block][field][row], a whole number of cache lines (a last block without another leaves half
/// of them unused); then everything else as groups of four bytes, [block][quad][row].  So a register holds the same
/// four columns of as many rows as it has lanes, and a panel is read from first to last: a processor fetches one stream
/// ahead far better than two.
namespace mamba2::cpu {

constexpr int panel_rows = 16;  // the lanes of an AVX-512 register
constexpr int quantized_types = 8;

/// A block of one row.
struct QuantizedLayout {
  int elements;
  int halves;         // f16 fields
  bool halves_first;  // in GGUF's block, else they are its end
  int quads;          // of other bytes
  bool fifth_bits;    // the first quad holds 32 fifth bits, bit 8 (i % 4) + i / 4 for element i
  int extras;         // dwords that a block of x has beside its scale
};

/// By quantized_index().
constexpr QuantizedLayout quantized_layouts[quantized_types] = {{32, 1, true, 8, false, 1},      // q8_0
                                                                {32, 1, true, 4, false, 1},      // q4_0
                                                                {32, 2, true, 4, false, 1},      // q4_1
                                                                {32, 1, true, 5, true, 1},       // q5_0
                                                                {32, 2, true, 5, true, 1},       // q5_1
                                                                {256, 2, true, 35, false, 4},    // q4_k
                                                                {256, 2, true, 43, false, 4},    // q5_k
                                                                {256, 1, false, 52, false, 8}};  // q6_k

constexpr int quantized_index(DType dtype) {
  return static_cast<int>(dtype) - static_cast<int>(DType::q8_0);
}

// The quads of q5_k and q6_k are in the order of use, again for the sake of one stream: those with fifth and sixth bits
// among those whose elements need them first.  All other dtypes keep GGUF's order.
constexpr int q5_k_high(int i) {  // i < 8
  return 4 + 2 * i;
}
constexpr int q5_k_low(int i) {  // i < 32
  return i < 8 ? 3 + 2 * i : 11 + i;
}
constexpr int q6_k_scale(int i) {  // i < 4
  return i;
}
constexpr int q6_k_low(int i) {  // i < 32
  return 4 + i / 16 * 24 + (i % 16 < 8 ? i % 8 / 4 * 8 + i % 4 : 8 + i % 16);
}
constexpr int q6_k_high(int i) {  // i < 16
  return 4 + i / 8 * 24 + i % 8 / 4 * 8 + 4 + i % 4;
}

// Bytes from a panel's start to the fields of a block.
constexpr std::int64_t pair_bytes(int halves, int quads) {
  return (halves * 4 + quads * 8) * panel_rows;
}
constexpr std::int64_t halves_offset(int halves, int quads, std::int64_t block) {
  return block / 2 * pair_bytes(halves, quads) + block % 2 * halves * 2 * panel_rows;
}
constexpr std::int64_t quads_offset(int halves, int quads, std::int64_t block) {
  return block / 2 * pair_bytes(halves, quads) + (halves + block % 2 * quads) * 4 * panel_rows;
}
constexpr std::int64_t panel_bytes(const QuantizedLayout& layout, std::int64_t blocks) {
  return ((blocks + 1) / 2 * layout.halves + blocks * layout.quads) * 4 * panel_rows;
}

/// A row of x as bytes: q (k of them), then a scale (f32) for each block, then its extras.  x = scale q.
constexpr std::int64_t quantized_row_bytes(const QuantizedLayout& layout, std::int64_t k) {
  return (k + k / layout.elements * (1 + layout.extras) * 4 + 63) / 64 * 64;
}
/// The least scale, so that its inverse is finite.
constexpr float smallest_scale = 0x1p-120F;

}  // namespace mamba2::cpu
