#pragma once

#include "mamba2/cpu/kernels/quantized_dot.h"
#include "mamba2/cpu/quantized_layout.h"

// What the kernels must know of each quantised dtype.  A block's columns are cut into groups with a scale of their own
// (one group where the block has one scale), a group into steps of four columns, a register's worth of which
// quads<group, step>() unpacks as unsigned bytes from the block's quads (mamba2/cpu/quantized_layout.h); what must be
// taken off these bytes is put right once a block by the sums of x's bytes, the extras of a block of x.
namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

constexpr int quad_stride = panel_rows * 4;  // bytes

MAMBA2_INLINE Unsigned quad(const std::byte* block, int i) {
  return load_unaligned<Unsigned>(block + i * quad_stride);
}
/// The half of each byte that holds element i of 32: GGUF's order in its blocks of 32.
template <int step>
MAMBA2_INLINE Unsigned half_bytes(const std::byte* block) {
  return step < 4 ? quad(block, step) & 0x0F0F0F0FU : quad(block, step - 4) >> 4 & 0x0F0F0F0FU;
}
/// Bit or bits `from` and up of each byte moved to `to` and up.
template <int from, int to>
MAMBA2_INLINE Unsigned moved_bits(Unsigned bytes, std::uint32_t mask) {
  if constexpr (from <= to)
    return bytes << (to - from) & mask;
  else
    return bytes >> (from - to) & mask;
}

/// One group of 32 with an f16 scale, and a minimum where has_min.
struct Flat {
  static constexpr int elements = 32, groups = 1, steps = 8, extras = 1;
  struct Scales {};
  static MAMBA2_INLINE Scales scales(const std::byte*) { return {}; }
};

struct Q8_0 : Flat {
  static constexpr int halves = 1, quads_in_block = 8;
  static constexpr int largest = 255, offset = sums_in_16_bits ? 0 : 128;
  static constexpr bool is_signed = sums_in_16_bits, has_min = false;
  template <int group, int step>
  static MAMBA2_INLINE Unsigned quads(const std::byte* block) {
    return is_signed ? quad(block, step) : quad(block, step) ^ 0x80808080U;
  }
};

struct Q4_0 : Flat {
  static constexpr int halves = 1, quads_in_block = 4, largest = 15, offset = 8;
  static constexpr bool is_signed = false, has_min = false;
  template <int group, int step>
  static MAMBA2_INLINE Unsigned quads(const std::byte* block) {
    return half_bytes<step>(block);
  }
};

struct Q4_1 : Q4_0 {
  static constexpr int halves = 2, offset = 0;
  static constexpr bool has_min = true;
};

struct Q5_0 : Flat {
  static constexpr int halves = 1, quads_in_block = 5, largest = 31, offset = 16;
  static constexpr bool is_signed = false, has_min = false;
  template <int group, int step>
  static MAMBA2_INLINE Unsigned quads(const std::byte* block) {
    return half_bytes<step>(block + quad_stride) | moved_bits<step, 4>(quad(block, 0), 0x10101010U);
  }
};

struct Q5_1 : Q5_0 {
  static constexpr int halves = 2, offset = 0;
  static constexpr bool has_min = true;
};

/// Eight groups of 32 with 6-bit scales and minima; the block's first three quads pack them (ScalesK).
struct SuperK {
  static constexpr int elements = 256, groups = 8, steps = 8, extras = 4, halves = 2, offset = 0;
  static constexpr bool is_signed = false, has_min = true;

  struct Scales {
    Unsigned scale[2], min[2];
  };
  static MAMBA2_INLINE Scales scales(const std::byte* block) {
    const Unsigned low = quad(block, 0), middle = quad(block, 1), high = quad(block, 2);
    return {{low & 0x3F3F3F3FU, (high & 0x0F0F0F0FU) | (low >> 2 & 0x30303030U)},
            {middle & 0x3F3F3F3FU, (high >> 4 & 0x0F0F0F0FU) | (middle >> 2 & 0x30303030U)}};
  }
  template <int group>
  static MAMBA2_INLINE Ints scale(const Scales& scales) {
    return group_scale<group % 4>(scales.scale[group / 4]);
  }
  /// The sum over groups of min times the sum of x's bytes.
  static MAMBA2_INLINE Ints mins(const Scales& scales, const std::int32_t* x) {
    return multiply_pairs(even_bytes((Ints)scales.min[0]), broadcast_int(x[0])) +
           multiply_pairs(odd_bytes((Ints)scales.min[0]), broadcast_int(x[1])) +
           multiply_pairs(even_bytes((Ints)scales.min[1]), broadcast_int(x[2])) +
           multiply_pairs(odd_bytes((Ints)scales.min[1]), broadcast_int(x[3]));
  }
};

struct Q4K : SuperK {
  static constexpr int quads_in_block = 35, largest = 15;
  template <int group, int step>
  static MAMBA2_INLINE Unsigned quads(const std::byte* block) {
    return quad(block, 3 + group / 2 * 8 + step) >> (group % 2 * 4) & 0x0F0F0F0FU;
  }
};

struct Q5K : SuperK {
  static constexpr int quads_in_block = 43, largest = 31;
  template <int group, int step>
  static MAMBA2_INLINE Unsigned quads(const std::byte* block) {
    return (quad(block, q5_k_low(group / 2 * 8 + step)) >> (group % 2 * 4) & 0x0F0F0F0FU) |
           moved_bits<group, 4>(quad(block, q5_k_high(step)), 0x10101010U);
  }
};

/// Sixteen groups of 16 with signed 8-bit scales, elements less 32.
struct Q6K {
  static constexpr int elements = 256, groups = 16, steps = 4, extras = 8, halves = 1, quads_in_block = 52;
  static constexpr int largest = 63, offset = 32;
  static constexpr bool is_signed = false, has_min = false;

  struct Scales {
    Unsigned scale[4];
  };
  static MAMBA2_INLINE Scales scales(const std::byte* block) {
    return {{quad(block, q6_k_scale(0)), quad(block, q6_k_scale(1)), quad(block, q6_k_scale(2)),
             quad(block, q6_k_scale(3))}};
  }
  template <int group>
  static MAMBA2_INLINE Ints scale(const Scales& scales) {
    return signed_group_scale<group % 4>(scales.scale[group / 4]);
  }
  template <int group, int step>
  static MAMBA2_INLINE Unsigned quads(const std::byte* block) {
    constexpr int half = group / 8, quarter = group % 8 / 2, in_quarter = group % 2 * 4 + step;
    const Unsigned both = quad(block, q6_k_low(half * 16 + quarter % 2 * 8 + in_quarter));
    return (both >> (quarter / 2 * 4) & 0x0F0F0F0FU) |
           moved_bits<2 * quarter, 4>(quad(block, q6_k_high(half * 8 + in_quarter)), 0x30303030U);
  }
  /// The sum over groups of scale times the sum of x's bytes.
  static MAMBA2_INLINE Ints scaled_sums(const Scales& scales, const std::int32_t* x) {
    Ints sum = {};
    for (int i = 0; i < 4; ++i)
      sum += multiply_pairs(even_bytes((Ints)scales.scale[i]), broadcast_int(x[2 * i])) +
             multiply_pairs(odd_bytes((Ints)scales.scale[i]), broadcast_int(x[2 * i + 1]));
    return sum;
  }
};

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
