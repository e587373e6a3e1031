// The bits of packed weights: where they lie, and how the lane of a warp that holds them takes them apart.  For host
// and device, so that all of it is tested where there is no GPU.
//
// A weight (rows, columns) of q8_0, q4_0, q4_k or q6_k keeps the bits of its GGUF blocks in another order.  Its rows
// are taken in fours, a four's columns in units of 256; fours and units follow each other without gaps:
//
//   four 0: unit 0, unit 1, ...   four 1: unit 0, ...
//
// A unit is cells of 16 bytes, 4 rows of `pieces` x 4 cells of quants and `headers` cells of scales:
//
//   bytes            row 0          row 1          row 2          row 3
//   0 to 255         t0 t1 t2 t3    t0 t1 t2 t3    t0 t1 t2 t3    t0 t1 t2 t3     piece 0
//   256 to 511       t0 t1 t2 t3    ...                                           piece 1
//   ...
//   256 pieces       h              h              h              h               header 0
//   256 pieces + 64  h              h              h              h               header 1
//
//           pieces  headers  bytes   GGUF's
//   q8_0      4        1      1088     1088
//   q4_0      2        1       576      576
//   q4_k      2        1       576      576
//   q6_k      3        2       896      840
//
// Quants: cell t holds what lane (g, t) multiplies, eight elements of each of the unit's blocks of 32: e0 to e3 are the
// block's columns 4 t to 4 t + 3, e4 to e7 columns 16 + 4 t to 16 + 4 t + 3.  So a warp's load is two runs of 256
// bytes, and each of its products is of one half of a block.
//   q8_0: two words a block, the bytes e0 e2 e1 e3 and e4 e6 e5 e7; piece p has blocks 2 p and 2 p + 1.
//   q4_0, q4_k: a word a block, its lower half the nibbles e0 e2 e4 e6, lowest first, its upper half e1 e3 e5 e7; piece
//     p has blocks 4 p to 4 p + 3.
//   q6_k: the lower four bits of each element as for q4_0; in piece 2 a word for each two blocks, halves as above, with
//     the upper two bits of an element in place of a nibble, those of the first block in the lower byte of each half.
//
// Headers, of a row:
//   q8_0, q4_0: the f16 scales of the eight blocks.
//   q4_k: word t has in bits 0 to 23 scale and scale, min and min (6 bits each) of blocks 2 t and 2 t + 1, above them
//     byte t of d and dmin.
//   q6_k: the sixteen scales; then d and zeros.
//
// Columns past the last and rows past the last are zeros, and so are their scales.
#pragma once

#include <vector_types.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "mamba2/tensor/dtype.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define MAMBA2_ANYWHERE __host__ __device__ __forceinline__
#else
#define MAMBA2_ANYWHERE inline
#endif

namespace mamba2::cuda {

constexpr int four_rows = 4;
constexpr int unit_columns = 256, block_columns = 32, unit_blocks = unit_columns / block_columns;
constexpr int cell_bytes = 16, piece_bytes = 4 * four_rows * cell_bytes, header_bytes = four_rows * cell_bytes;
constexpr int lane_elements = 8;  // of a block

/// Where in the 64 bytes of bf16 that x has of a block its columns 4 four to 4 four + 3 lie: lane t reads 16 bytes at
/// 16 t, the columns that it has quants of.
MAMBA2_ANYWHERE constexpr int x_offset(int four) {
  return four % 4 * 16 + four / 4 * 8;
}

/// What is where in a unit.
template <DType Type>
struct PackedFormat {
  static_assert(Type == DType::q8_0 || Type == DType::q4_0 || Type == DType::q4_k || Type == DType::q6_k);
  static constexpr int pieces = Type == DType::q8_0 ? 4 : Type == DType::q6_k ? 3 : 2;
  static constexpr int headers = Type == DType::q6_k ? 2 : 1;
  static constexpr int unit_bytes = pieces * piece_bytes + headers * header_bytes;
  static constexpr int block_words = Type == DType::q8_0 ? 2 : 1;  // of a lane's quants
  static constexpr bool has_min = Type == DType::q4_k;
  static constexpr bool has_super_blocks = Type == DType::q4_k || Type == DType::q6_k;
};

/// The first of a block's words among those that a lane has of all pieces; and that of the upper bits of q6_k.
template <DType Type>
MAMBA2_ANYWHERE constexpr int quant_word(int block) {
  return block * PackedFormat<Type>::block_words;
}
MAMBA2_ANYWHERE constexpr int upper_bits_word(int block) {
  return 2 * 4 + block / 2;
}

MAMBA2_ANYWHERE std::uint32_t word_of(const uint4& cell, int i) {
  return i == 0 ? cell.x : i == 1 ? cell.y : i == 2 ? cell.z : cell.w;
}

/// The f16 in the lower or upper half of a word.
MAMBA2_ANYWHERE float half_of(std::uint32_t word, int upper) {
  const auto bits = static_cast<std::uint16_t>(word >> (16 * upper));
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(bits));
#else
  return to_float(f16{bits});
#endif
}

/// Elements of a pair of bf16, the lower half first.
MAMBA2_ANYWHERE float low_of(std::uint32_t pair) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(pair << 16);
#else
  return std::bit_cast<float>(pair << 16);
#endif
}
MAMBA2_ANYWHERE float high_of(std::uint32_t pair) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(pair & 0xFFFF0000U);
#else
  return std::bit_cast<float>(pair & 0xFFFF0000U);
#endif
}

/// The differences of two pairs of bf16 that bf16 holds exactly.
MAMBA2_ANYWHERE std::uint32_t exact_difference(std::uint32_t a, std::uint32_t b) {
#ifdef __CUDA_ARCH__
  __nv_bfloat162 from, taken;
  memcpy(&from, &a, sizeof a);
  memcpy(&taken, &b, sizeof b);
  const __nv_bfloat162 left = __hsub2_rn(from, taken);
  std::uint32_t pair;
  memcpy(&pair, &left, sizeof pair);
  return pair;
#else
  const auto low = std::bit_cast<std::uint32_t>(low_of(a) - low_of(b));
  const auto high = std::bit_cast<std::uint32_t>(high_of(a) - high_of(b));
  return low >> 16 | (high & 0xFFFF0000U);
#endif
}

/// (bits & mask) | with, in one instruction: the compiler makes two where both others are constants.
MAMBA2_ANYWHERE std::uint32_t put_in_place(std::uint32_t bits, std::uint32_t mask, std::uint32_t with) {
#ifdef __CUDA_ARCH__
  constexpr int and_or = 0xEA;
  std::uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(result) : "r"(bits), "r"(mask), "r"(with), "n"(and_or));
  return result;
#else
  return (bits & mask) | with;
#endif
}

/// A lane's eight quants of a block as pairs of bf16, exactly: e0 e1, e2 e3, e4 e5, e6 e7.  q4_k's are less by 8.
/// words: of the block; for q6_k the second is its upper bits' word.
///
/// bf16 has seven bits behind the leading one, so that 128 + i is the bits of 128 with i put in place: an integer
/// becomes a number by one operation on both of a pair.
template <DType Type>
MAMBA2_ANYWHERE void quants_of(std::uint32_t word, std::uint32_t second, int block, std::uint32_t (&pairs)[4]) {
  constexpr std::uint32_t of_128 = 0x43004300, of_136 = 0x43084308, of_160 = 0x43204320;
  constexpr std::uint32_t nibbles = 0x000F000F;
  for (int i = 0; i < 4; ++i) {
    if constexpr (Type == DType::q8_0) {
      // The lower seven bits, less 128 where the sign's bit is set: put in place it doubles 128.
      const std::uint32_t bytes = (i < 2 ? word : second) >> (8 * (i % 2));
      pairs[i] = exact_difference(put_in_place(bytes, 0x007F007F, of_128), put_in_place(bytes, 0x00800080, of_128));
    } else if constexpr (Type == DType::q6_k) {
      const int at = 2 * (4 * (block % 2) + i);  // of the first of the pair in its half of the word
      const std::uint32_t upper = at >= 4 ? second >> (at - 4) : second << (4 - at);
      const std::uint32_t lower = put_in_place(word >> (4 * i), nibbles, of_128);
      pairs[i] = exact_difference(put_in_place(upper, 0x00300030, lower), of_160);
    } else {
      pairs[i] = exact_difference(put_in_place(word >> (4 * i), nibbles, of_128), of_136);
    }
  }
}

/// Scales and mins of a row's blocks 2 t and 2 t + 1, from its header and the header's word t: exact.
MAMBA2_ANYWHERE void q4_k_scales(const uint4& header, std::uint32_t own, float (&scale)[2], float (&min)[2]) {
  const float d = half_of(header.x >> 24 | header.y >> 24 << 8, 0);
  const float dmin = half_of(header.z >> 24 | header.w >> 24 << 8, 0);
  for (int i = 0; i < 2; ++i) {
    scale[i] = d * static_cast<float>(own >> (6 * i) & 63U);
    min[i] = dmin * static_cast<float>(own >> (12 + 6 * i) & 63U);
  }
}

/// Scales of a row's groups 4 t to 4 t + 3 of 16 columns, from word t of its first header and the first of its second.
MAMBA2_ANYWHERE void q6_k_scales(std::uint32_t own, std::uint32_t second_header, float (&scale)[4]) {
  const float d = half_of(second_header, 0);
  for (int i = 0; i < 4; ++i) scale[i] = d * static_cast<float>(static_cast<std::int8_t>(own >> (8 * i)));
}

MAMBA2_ANYWHERE std::uint32_t load_word(const std::byte* from) {
#ifdef __CUDA_ARCH__
  return *reinterpret_cast<const std::uint32_t*>(from);
#else
  std::uint32_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
#endif
}

/// A lane's eight elements of a block of one row, bit for bit what dequantize() gives: columns 4 t to 4 t + 3, then
/// those and 16.  unit: of the row's four.
template <DType Type>
MAMBA2_ANYWHERE void unpacked_elements(const std::byte* unit, int row, int block, int t,
                                       float (&elements)[lane_elements]) {
  using Format = PackedFormat<Type>;
  const std::byte* const header = unit + Format::pieces * piece_bytes + row * cell_bytes;
  auto own_word = [&](int i) {
    return load_word(unit + i / 4 * piece_bytes + (four_rows * row + t) * cell_bytes + i % 4 * 4);
  };
  const std::uint32_t word = own_word(quant_word<Type>(block));
  std::uint32_t second = 0, pairs[4];
  if constexpr (Type == DType::q8_0) second = own_word(quant_word<Type>(block) + 1);
  if constexpr (Type == DType::q6_k) second = own_word(upper_bits_word(block));
  quants_of<Type>(word, second, block, pairs);
  // e0 to e3 and e4 to e7 are of one group each
  float scale[2], min = 0.0F, added = 0.0F;
  if constexpr (Type == DType::q4_k) {
    const uint4 whole{load_word(header), load_word(header + 4), load_word(header + 8), load_word(header + 12)};
    float scales[2], mins[2];
    q4_k_scales(whole, load_word(header + block / 2 * 4), scales, mins);
    scale[0] = scale[1] = block % 2 == 0 ? scales[0] : scales[1];
    min = block % 2 == 0 ? mins[0] : mins[1];
    added = 8.0F;
  } else if constexpr (Type == DType::q6_k) {
    float scales[4];
    q6_k_scales(load_word(header + block / 2 * 4), load_word(header + header_bytes), scales);
    scale[0] = block % 2 == 0 ? scales[0] : scales[2];
    scale[1] = block % 2 == 0 ? scales[1] : scales[3];
  } else {
    scale[0] = scale[1] = half_of(load_word(header + block / 2 * 4), block % 2);
  }
  for (int i = 0; i < 4; ++i) {
    elements[2 * i] = scale[i / 2] * (low_of(pairs[i]) + added) - min;
    elements[2 * i + 1] = scale[i / 2] * (high_of(pairs[i]) + added) - min;
  }
}

}  // namespace mamba2::cuda
