#include "mamba2/tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mamba2 {
namespace {

TEST(F16, EveryBitPatternSurvivesTheWayThroughFloat) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const f16 value{static_cast<std::uint16_t>(bits)};
    const float wide = to_float(value);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(to_float(to_f16(wide))));
    } else {
      EXPECT_EQ(to_f16(wide).bits, bits);
    }
  }
}

TEST(F16, RoundsToNearestTiesToEven) {
  for (std::uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const float low = to_float(f16{static_cast<std::uint16_t>(bits)});
    const float high = to_float(f16{static_cast<std::uint16_t>(bits + 1)});
    const float middle = (low + high) / 2;  // exact in float
    EXPECT_EQ(to_f16(middle).bits, bits + (bits & 1));
    EXPECT_EQ(to_f16(std::nextafter(middle, high)).bits, bits + 1);
    EXPECT_EQ(to_f16(std::nextafter(middle, low)).bits, bits);
  }
  EXPECT_EQ(to_f16(65519.0F).bits, 0x7BFF);
  EXPECT_EQ(to_f16(65520.0F).bits, 0x7C00);
  EXPECT_EQ(to_f16(-INFINITY).bits, 0xFC00);
}

TEST(Bf16, RoundsToNearestTiesToEven) {
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3F808000U)).bits, 0x3F80);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3F818000U)).bits, 0x3F82);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3F808001U)).bits, 0x3F81);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x7F7FFFFFU)).bits, 0x7F80);
  EXPECT_TRUE(std::isnan(to_float(to_bf16(NAN))));
}

TEST(DType, NamesGoBothWays) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::i16,
                            DType::i8, DType::u8, DType::boolean})
    EXPECT_EQ(parse_dtype(name(dtype)), dtype);
  EXPECT_FALSE(parse_dtype("f128"));
}

}  // namespace
}  // namespace mamba2
