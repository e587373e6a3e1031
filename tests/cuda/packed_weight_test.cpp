#include "mamba2/cuda/packed_weight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "mamba2/cuda/packed_format.h"
#include "mamba2/cuda/packed_plan.h"
#include "mamba2/tensor/quantized.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

constexpr std::array packed_dtypes{DType::q8_0, DType::q4_0, DType::q4_k, DType::q6_k};

/// Calls f(std::integral_constant<DType, ...>) with each packed dtype.
template <class F>
void for_each_dtype(F&& f) {
  f(std::integral_constant<DType, DType::q8_0>());
  f(std::integral_constant<DType, DType::q4_0>());
  f(std::integral_constant<DType, DType::q4_k>());
  f(std::integral_constant<DType, DType::q6_k>());
}

std::size_t at(std::int64_t index) {
  return static_cast<std::size_t>(index);
}

/// Any f16 but the infinite ones and NaNs.
f16 finite_scale(Random& random) {
  const auto bits = static_cast<std::uint16_t>(random.next_u32());
  constexpr std::uint16_t exponent = 0x7C00;
  return {static_cast<std::uint16_t>((bits & exponent) == exponent ? bits & ~0x4000U : bits)};
}

/// Gives a block finite scales; or scales of one and mins of zero, so that its elements are its quants.
template <class Block>
void set_scales(std::byte* bytes, Random* random) {
  constexpr f16 one{0x3C00};
  Block block;
  std::memcpy(&block, bytes, sizeof block);
  block.d = random != nullptr ? finite_scale(*random) : one;
  if constexpr (requires { block.dmin; }) {
    block.dmin = random != nullptr ? finite_scale(*random) : f16{0};
    if (random == nullptr) block.scales = pack_scales({.scale = {1, 1, 1, 1, 1, 1, 1, 1}, .min = {}});
  }
  if constexpr (std::is_same_v<Block, BlockQ6K>)
    if (random == nullptr) block.scales.fill(1);
  std::memcpy(bytes, &block, sizeof block);
}

enum class Scales : std::uint8_t { random, ones };

/// A matrix whose blocks hold random bits, so every quant, scale and min there is.
struct Matrix {
  DType dtype;
  std::int64_t rows, columns;
  std::vector<std::byte> blocks;
  std::vector<float> values;
  std::vector<std::byte> packed;

  Matrix(DType type, std::int64_t row_count, std::int64_t column_count, Random& random, Scales scales = Scales::random)
      : dtype(type),
        rows(row_count),
        columns(column_count),
        blocks(bytes_for(type, row_count * column_count)),
        values(at(row_count * column_count)),
        packed(packed_bytes(type, row_count, column_count), std::byte{0xAB}) {
    for (std::byte& byte : blocks) byte = static_cast<std::byte>(random.next_u32());
    for (std::size_t i = 0; i < blocks.size(); i += bytes_per_block(type)) {
      switch (type) {
        case DType::q8_0: set_scales<BlockQ8_0>(&blocks[i], scales == Scales::random ? &random : nullptr); break;
        case DType::q4_0: set_scales<BlockQ4_0>(&blocks[i], scales == Scales::random ? &random : nullptr); break;
        case DType::q4_k: set_scales<BlockQ4K>(&blocks[i], scales == Scales::random ? &random : nullptr); break;
        default: set_scales<BlockQ6K>(&blocks[i], scales == Scales::random ? &random : nullptr); break;
      }
    }
    dequantize(type, blocks.data(), values);
    pack(Tensor(blocks.data(), type, Shape{rows, columns}), packed);
  }

  std::int64_t units() const { return (columns + unit_columns - 1) / unit_columns; }
  float value(std::int64_t row, std::int64_t column) const { return values[at(row * columns + column)]; }
  template <DType Type>
  const std::byte* unit(std::int64_t row, std::int64_t number) const {
    return packed.data() + (row / four_rows * units() + number) * PackedFormat<Type>::unit_bytes;
  }
};

std::vector<std::int64_t> column_counts(DType dtype) {
  if (block_elements(dtype) == 256) return {256, 768, 2560};
  return {32, 64, 224, 256, 288, 768, 992};
}

TEST(PackedWeight, ElementsAreThoseOfTheBlocksBitForBit) {
  Random random(1);
  for_each_dtype([&](auto type) {
    constexpr DType dtype = decltype(type)::value;
    for (const std::int64_t rows : {1, 3, 4, 5, 17})
      for (const std::int64_t columns : column_counts(dtype)) {
        const Matrix matrix(dtype, rows, columns, random);
        std::vector<float> got(matrix.values.size());
        for (std::int64_t row = 0; row < rows; ++row)
          for (std::int64_t block = 0; block < columns / block_columns; ++block)
            for (int t = 0; t < 4; ++t) {
              float elements[lane_elements];
              unpacked_elements<dtype>(matrix.unit<dtype>(row, block / unit_blocks), static_cast<int>(row % four_rows),
                                       static_cast<int>(block % unit_blocks), t, elements);
              for (int e = 0; e < lane_elements; ++e)
                got[at(row * columns + block * block_columns + 4 * t + e % 4 + e / 4 * 16)] = elements[e];
            }
        EXPECT_EQ(std::memcmp(got.data(), matrix.values.data(), got.size() * sizeof(float)), 0)
            << name(dtype) << " " << rows << " x " << columns;
      }
  });
}

TEST(PackedWeight, WhatIsPastTheMatrixIsZero) {
  Random random(2);
  for_each_dtype([&](auto type) {
    constexpr DType dtype = decltype(type)::value;
    const std::int64_t rows = 5, columns = block_elements(dtype) == 256 ? 256 : 288;
    const Matrix matrix(dtype, rows, columns, random);
    const std::int64_t padded_rows = 8, padded_columns = matrix.units() * unit_columns;
    for (std::int64_t row = 0; row < padded_rows; ++row)
      for (std::int64_t block = 0; block < padded_columns / block_columns; ++block) {
        if (row < rows && block < columns / block_columns) continue;
        float elements[lane_elements];
        unpacked_elements<dtype>(matrix.unit<dtype>(row, block / unit_blocks), static_cast<int>(row % four_rows),
                                 static_cast<int>(block % unit_blocks), 1, elements);
        for (const float element : elements) EXPECT_EQ(element, 0.0F) << name(dtype);
      }
  });
}

TEST(PackedWeight, TakesTheBytesOfTheBlocks) {
  EXPECT_EQ(packed_bytes(DType::q8_0, 10576, 2560), bytes_for(DType::q8_0, 10576 * 2560));
  EXPECT_EQ(packed_bytes(DType::q4_0, 10576, 2560), bytes_for(DType::q4_0, 10576 * 2560));
  EXPECT_EQ(packed_bytes(DType::q4_k, 10576, 2560), bytes_for(DType::q4_k, 10576 * 2560));
  EXPECT_EQ(packed_bytes(DType::q6_k, 10576, 2560) * 15, bytes_for(DType::q6_k, 10576 * 2560) * 16);
  EXPECT_EQ(packed_bytes(DType::q8_0, 0, 2560), 0U);
  EXPECT_FALSE(is_packed(DType::q5_k));
  EXPECT_FALSE(is_packed(DType::f16));
}

/// The registers of a warp's mma.m16n8k16, and the elements of its product.
struct TensorCore {
  std::array<std::array<std::uint32_t, 4>, 32> a{};
  std::array<std::array<std::uint32_t, 2>, 32> b{};

  static double element(std::uint32_t pair, int i) { return i == 0 ? low_of(pair) : high_of(pair); }
  double product(int row, int column) const {
    double sum = 0;
    for (int k = 0; k < 16; ++k) {
      const int t = k % 8 / 2, upper_k = k / 8;
      sum += element(a[at(row % 8 * 4 + t)][at(row / 8 + 2 * upper_k)], k % 2) *
             element(b[at(column * 4 + t)][at(upper_k)], k % 2);
    }
    return sum;
  }
};

/// What lane (g, t) has of a row's block.
template <DType Type>
void lane_quants(const Matrix& matrix, std::int64_t row, int block, int t, std::uint32_t (&pairs)[4]) {
  const std::byte* const unit = matrix.unit<Type>(row, block / unit_blocks);
  auto word = [&](int i) {
    return load_word(unit + i / 4 * piece_bytes + (four_rows * (row % four_rows) + t) * cell_bytes + i % 4 * 4);
  };
  const int in_unit = block % unit_blocks, own = quant_word<Type>(in_unit);
  std::uint32_t second = 0;
  if constexpr (Type == DType::q8_0) second = word(own + 1);
  if constexpr (Type == DType::q6_k) second = word(upper_bits_word(in_unit));
  quants_of<Type>(word(own), second, in_unit, pairs);
}

/// x of a block as shared memory has it: 64 bytes for each column of the product.
std::array<std::byte, std::size_t{8} * 64> shared_x(const std::vector<float>& x, std::int64_t columns, int block) {
  std::array<std::byte, std::size_t{8} * 64> shared{};
  for (int column = 0; column < 8; ++column)
    for (int k = 0; k < block_columns; ++k) {
      const bf16 value = to_bf16(x[at(column * columns + block * block_columns + k)]);
      std::memcpy(&shared[at(column * 64 + x_offset(k / 4) + k % 4 * 2)], &value, sizeof value);
    }
  return shared;
}

TEST(PackedWeight, AWarpsProductsAreThoseOfTheBlocksHalves) {
  // Integers that bf16 holds: every product and sum is exact.
  Random random(3);
  constexpr std::int64_t columns = 512;
  std::vector<float> x(8 * columns);
  for (float& value : x) value = static_cast<float>(uniform_int(-255, 255, random));
  for_each_dtype([&](auto type) {
    constexpr DType dtype = decltype(type)::value;
    const Matrix matrix(dtype, 16, columns, random, Scales::ones);
    const float shift = dtype == DType::q4_k ? 8.0F : 0.0F;  // its quants are less by this
    for (int block = 0; block < columns / block_columns; ++block) {
      const auto shared = shared_x(x, columns, block);
      std::array<TensorCore, 2> halves;
      for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int upper_rows = 0; upper_rows < 2; ++upper_rows) {
          std::uint32_t pairs[4];
          lane_quants<dtype>(matrix, g + 8 * upper_rows, block, t, pairs);
          for (int i = 0; i < 4; ++i) halves[at(i / 2)].a[at(lane)][at(upper_rows + 2 * (i % 2))] = pairs[i];
        }
        for (int i = 0; i < 4; ++i)
          halves[at(i / 2)].b[at(lane)][at(i % 2)] = load_word(&shared[at(g * 64 + t * 16 + 4 * i)]);
      }
      for (int half = 0; half < 2; ++half)
        for (int row = 0; row < 16; ++row)
          for (int column = 0; column < 8; ++column) {
            double want = 0;
            for (int k = 0; k < 16; ++k) {
              const std::int64_t from = block * block_columns + 16 * half + k;
              want += static_cast<double>(matrix.value(row, from) - shift) *
                      static_cast<double>(x[at(column * columns + from)]);
            }
            ASSERT_EQ(halves[at(half)].product(row, column), want) << name(dtype) << " block " << block;
          }
    }
  });
}

PackedShape random_shape(Random& random) {
  PackedShape shape{};
  shape.dtype = packed_dtypes[at(uniform_int(0, 3, random))];
  shape.inputs = 32 * uniform_int(1, 200, random);
  shape.outputs = uniform_int(1, uniform_int(0, 1, random) == 0 ? 300 : 60000, random);
  shape.rows = uniform_int(1, 40, random);
  shape.parts = uniform_int(0, 1, random) == 0 ? 3 : 1;
  return shape;
}

TEST(PackedPlan, BlocksHaveEveryFourOfRowsOnceAndWarpsEveryUnitOnce) {
  Random random(4);
  for (int i = 0; i < 300; ++i) {
    const PackedShape shape = random_shape(random);
    const PackedPlan plan = packed_plan(shape, uniform_int(1, 200, random), 227 << 10);
    ASSERT_GT(plan.rows, 0);
    int next_four = 0;
    for (int block = 0; block < plan.blocks; ++block) {
      const PackedShare share(plan, block);
      for (int tile = 0; tile < share.tiles; ++tile) {
        ASSERT_EQ(share.tile_start(tile), next_four);
        ASSERT_GE(share.tile_fours(tile), 1);
        ASSERT_LE(share.tile_fours(tile), packed_tile_fours);
        next_four += share.tile_fours(tile);
      }
      ASSERT_EQ(share.start_of(0), 0);
      ASSERT_EQ(share.start_of(packed_warps), share.tiles * share.units);
    }
    EXPECT_EQ(next_four * four_rows, (shape.outputs + 3) / 4 * 4);
  }
}

TEST(PackedPlan, TheWarpThatBeginsATileFindsAllOthersThatHavePartsOfIt) {
  Random random(5);
  for (int i = 0; i < 300; ++i) {
    const PackedShape shape = random_shape(random);
    const PackedPlan plan = packed_plan(shape, uniform_int(1, 200, random), 227 << 10);
    const PackedShare share(plan, uniform_int(0, plan.blocks - 1, random));
    for (int tile = 0; tile < share.tiles; ++tile) {
      const int start = tile * share.units, end = start + share.units;
      int beginner = 0;
      while (!(share.start_of(beginner) <= start && start < share.start_of(beginner + 1))) ++beginner;
      const int last = share.last_of(tile);
      int found = 0;
      for (int warp = beginner; warp <= last; ++warp) {
        if (!share.has_units(warp)) continue;
        // one that follows has it first in its run, where it leaves what it did not begin
        EXPECT_TRUE(warp == beginner || PackedPlace(share, share.start_of(warp)).tile == tile);
        found += std::min(end, share.start_of(warp + 1)) - std::max(start, share.start_of(warp));
      }
      EXPECT_EQ(found, share.units);
    }
  }
}

TEST(PackedPlan, WhatABlockHasInSharedMemoryFits) {
  Random random(6);
  for (int i = 0; i < 300; ++i) {
    const PackedShape shape = random_shape(random);
    const int shared_bytes = uniform_int(0, 1, random) == 0 ? 99 << 10 : 227 << 10;
    const PackedPlan plan = packed_plan(shape, 132, shared_bytes);
    if (plan.rows == 0) continue;
    EXPECT_LE(plan.bytes, shared_bytes);
    EXPECT_GE(plan.stages, 1);
    EXPECT_LE(plan.rows, std::min<std::int64_t>(shape.rows, packed_most_rows(shape.parts)));
    EXPECT_LE(plan.sets(), packed_most_sets);
    for (const int place : {plan.sums_at, plan.scales_at, plan.x_sums_at, plan.x_at, plan.ring_at})
      EXPECT_EQ(place % cell_bytes, 0);
  }
}

TEST(PackedPlan, OfTheSizesOfDecodeTwoBlocksFitAMultiprocessor) {
  constexpr int multiprocessors = 132, shared_bytes = 227 << 10;
  for (const DType dtype : packed_dtypes)
    for (const auto& [inputs, outputs] :
         {std::pair{768, 3352}, {1536, 768}, {2560, 10576}, {5120, 2560}, {2560, 50288}}) {
      const PackedPlan plan = packed_plan({dtype, inputs, outputs, 1, 3}, multiprocessors, shared_bytes);
      EXPECT_EQ(plan.rows, 1);
      EXPECT_GE(plan.stages, 2);
      EXPECT_LE(plan.bytes, (shared_bytes - 1024) / 2) << name(dtype) << " " << inputs;
    }
}

TEST(PackedPlan, EightRowsAreTakenTogetherWhereTheyHaveRoom) {
  EXPECT_EQ(packed_plan({DType::q8_0, 2560, 10576, 8, 3}, 132, 227 << 10).rows, 8);
  EXPECT_EQ(packed_plan({DType::q8_0, 5120, 2560, 8, 3}, 132, 227 << 10).rows, 4);
  EXPECT_EQ(packed_plan({DType::q4_0, 1 << 17, 2560, 1, 3}, 132, 227 << 10).rows, 0);
}

}  // namespace
}  // namespace mamba2::cuda
