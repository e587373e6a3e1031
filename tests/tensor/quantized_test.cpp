#include "mamba2/tensor/quantized.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/random.h"
#include "mamba2/tensor/tensor.h"

namespace mamba2 {
namespace {

constexpr DType quantized_dtypes[] = {DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0,
                                      DType::q5_1, DType::q4_k, DType::q5_k, DType::q6_k};
constexpr DType written_dtypes[] = {DType::q8_0, DType::q4_0, DType::q4_k, DType::q6_k};

/// From tools/make_quantized_vectors.py.
std::string vectors(DType dtype, const char* kind) {
  return read_file(MAMBA2_SOURCE_DIR "/tests/data/quantized/" + std::string(name(dtype)) + kind);
}

std::vector<float> floats(const std::string& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<float> input() {
  return floats(read_file(MAMBA2_SOURCE_DIR "/tests/data/quantized/input.values"));
}

std::vector<float> round_trip(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> blocks(bytes_for(dtype, static_cast<std::int64_t>(values.size())));
  quantize(dtype, values, blocks.data());
  std::vector<float> read(values.size());
  dequantize(dtype, blocks.data(), read);
  return read;
}

/// Root of the mean square error over root of the mean square.
double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
    size += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(error / size);
}

class EveryQuantizedDType : public ::testing::TestWithParam<DType> {};
class EveryWrittenDType : public ::testing::TestWithParam<DType> {};
std::string test_name(const ::testing::TestParamInfo<DType>& info) {
  return std::string(name(info.param));
}
INSTANTIATE_TEST_SUITE_P(Quantized, EveryQuantizedDType, ::testing::ValuesIn(quantized_dtypes), test_name);
INSTANTIATE_TEST_SUITE_P(Quantized, EveryWrittenDType, ::testing::ValuesIn(written_dtypes), test_name);

TEST_P(EveryQuantizedDType, ReadsTheReferencePackagesValuesBitForBit) {
  const std::string blocks = vectors(GetParam(), ".blocks");
  const std::string want = vectors(GetParam(), ".values");
  std::vector<float> got(want.size() / sizeof(float));
  dequantize(GetParam(), reinterpret_cast<const std::byte*>(blocks.data()), got);
  EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size()), 0);
}

TEST_P(EveryQuantizedDType, ReadsOneElementAsItReadsTheRow) {
  std::string blocks = vectors(GetParam(), ".blocks");
  const std::vector<float> want = floats(vectors(GetParam(), ".values"));
  const Tensor tensor(blocks.data(), GetParam(), {static_cast<std::int64_t>(want.size())});
  for (const std::size_t i : {std::size_t{0}, std::size_t{31}, std::size_t{300}, want.size() - 1})
    EXPECT_EQ(element_as_double(tensor, static_cast<std::int64_t>(i)), static_cast<double>(want[i]));
}

TEST_P(EveryQuantizedDType, RefusesRowsThatAreNoWholeNumberOfBlocks) {
  std::vector<float> row(33);
  EXPECT_THROW(dequantize(GetParam(), nullptr, row), Error);
  EXPECT_THROW(Tensor(nullptr, GetParam(), {256, 33}), Error);
  EXPECT_THROW(bytes_for(GetParam(), 33), Error);
}

TEST_P(EveryQuantizedDType, SlicesRowsByWholeBlocks) {
  std::string blocks = vectors(GetParam(), ".blocks");
  const Tensor tensor(blocks.data(), GetParam(), {4, 256});
  EXPECT_EQ(tensor.bytes(), blocks.size());
  EXPECT_EQ(tensor[2].as<char>(), blocks.data() + blocks.size() / 2);
  EXPECT_THROW(tensor.slice(1, 16, 32), Error);
  EXPECT_THROW(tensor.slice(1, 0, 16), Error);
}

TEST_P(EveryQuantizedDType, ConvertsToF32) {
  std::string blocks = vectors(GetParam(), ".blocks");
  const std::vector<float> want = floats(vectors(GetParam(), ".values"));
  const HostTensor converted(DType::f32, {4, 256});
  convert(Tensor(blocks.data(), GetParam(), {4, 256}), converted);
  EXPECT_EQ(std::memcmp(converted.view().data, want.data(), want.size() * sizeof(float)), 0);
}

class Quantize : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Quantized, Quantize, ::testing::Values(DType::q8_0, DType::q4_0), test_name);

TEST_P(Quantize, MakesTheReferencePackagesBlocksBitForBit) {
  const std::vector<float> values = input();
  const std::string want = vectors(GetParam(), ".quantized");
  std::string got(want.size(), '\0');
  quantize(GetParam(), values, reinterpret_cast<std::byte*>(got.data()));
  EXPECT_EQ(got, want);
}

TEST_P(EveryWrittenDType, HoldsZeros) {
  const std::vector<float> zeros(512, 0.0F);
  EXPECT_EQ(round_trip(GetParam(), zeros), zeros);
}

TEST_P(EveryWrittenDType, TakesTheSmallestNumbers) {
  const std::vector<float> tiny(256, std::numeric_limits<float>::denorm_min());
  for (const float value : round_trip(GetParam(), tiny)) EXPECT_EQ(value, 0.0F);
}

TEST_P(EveryWrittenDType, RefusesWhatIsNotFiniteOrTooLarge) {
  std::vector<float> values(256, 1.0F);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e6F}) {
    values[17] = bad;
    EXPECT_THROW(round_trip(GetParam(), values), Error) << bad;
  }
}

TEST_P(EveryWrittenDType, KeepsOnesBlocksAsTheyAreWhenWrittenAgain) {
  const std::vector<float> once = round_trip(GetParam(), input());
  // q8_0 and q4_0 find their own scale again up to f16's rounding of it; the searches at least don't drift
  EXPECT_LE(relative_error(round_trip(GetParam(), once), once), 0.02);
}

/// Normal values.  q8_0: the largest of 32 is 2.1 to 3.5 sigma, so a step is at most 0.028 sigma and the error, uniform
/// in half a step, 0.0080.  q4_0: a step of 3.5 / 8 gives 0.126.  q4_k, with a min of its own a group, has 15 steps
/// over a range of 4.2 sigma on average: 0.081, less by the search.  q6_k: the largest of 16 is at most 3.3 sigma, a
/// step 0.103 / sqrt(12) = 0.030.
TEST_P(EveryWrittenDType, KeepsNormalValuesToItsStep) {
  Random random(5);
  std::vector<float> values(256 * 64);
  for (float& value : values) value = static_cast<float>(random.normal());
  const double bound = GetParam() == DType::q8_0   ? 0.0080
                       : GetParam() == DType::q4_0 ? 0.126
                       : GetParam() == DType::q4_k ? 0.081
                                                   : 0.030;
  EXPECT_LE(relative_error(round_trip(GetParam(), values), values), bound);
}

TEST(ScalesK, UnpackToWhatWasPacked) {
  ScalesK scales;
  for (std::size_t g = 0; g < 8; ++g) {
    scales.scale[g] = static_cast<std::uint8_t>(g * 37 % 64);
    scales.min[g] = static_cast<std::uint8_t>(63 - g * 11 % 64);
  }
  const ScalesK unpacked = unpack_scales(pack_scales(scales));
  EXPECT_EQ(unpacked.scale, scales.scale);
  EXPECT_EQ(unpacked.min, scales.min);
}

TEST(QuantizedDTypes, RefuseToBeWrittenWhereTheyAreOnlyRead) {
  const std::vector<float> values(256);
  std::byte blocks[256];
  for (const DType dtype : {DType::q4_1, DType::q5_0, DType::q5_1, DType::q5_k, DType::f32})
    EXPECT_THROW(quantize(dtype, values, blocks), Error);
}

TEST(QuantizedDTypes, HaveNoElementSize) {
  for (const DType dtype : quantized_dtypes) {
    EXPECT_TRUE(is_quantized(dtype));
    EXPECT_FALSE(is_floating(dtype));
    EXPECT_EQ(parse_dtype(name(dtype)), dtype);
    EXPECT_THROW(element_size(dtype), Error);
  }
}

}  // namespace
}  // namespace mamba2
