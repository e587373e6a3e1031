#include "mamba2/checkpoint/gguf_writer.h"

#include <numeric>

#include "mamba2/checkpoint/gguf.h"
#include "test_files.h"

namespace mamba2 {
namespace {

using test::bytes_of;
using test::error_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

GgufMetadataBuilder every_kind() {
  GgufMetadataBuilder builder;
  builder.set_text("general.architecture", "mamba2");
  builder.set_u32("size", 4'000'000'000U);
  builder.set_f32("epsilon", 1e-5F);
  builder.set_flag("yes", true);
  builder.set_texts("words", std::vector<std::string>{"a", "", "\u0120b"});
  builder.set_i32s("ids", std::vector<std::int32_t>{1, -2});
  builder.set_f32s("scores", std::vector<float>{0.5F, -3});
  return builder;
}

TEST(GgufMetadataBuilder, WritesWhatGgufMetadataReads) {
  const std::string head = every_kind().head(7);
  const GgufMetadata metadata(bytes_of(head), "x");
  EXPECT_EQ(metadata.tensor_count(), 7U);
  EXPECT_EQ(metadata.end(), head.size());
  EXPECT_EQ(metadata.text("general.architecture"), "mamba2");
  EXPECT_EQ(metadata.integer("size"), 4'000'000'000);
  EXPECT_EQ(metadata.number("epsilon"), static_cast<double>(1e-5F));
  EXPECT_EQ(metadata.flag("yes"), true);
  EXPECT_THAT(*metadata.texts("words"), ElementsAre("a", "", "\u0120b"));
  EXPECT_THAT(*metadata.integers("ids"), ElementsAre(1, -2));
  EXPECT_THAT(*metadata.numbers("scores"), ElementsAre(0.5, -3));
}

TEST(GgufMetadataBuilder, CopiesValuesOfEveryKindAsTheyAre) {
  const std::string head = every_kind().head(0);
  const GgufMetadata metadata(bytes_of(head), "x");
  GgufMetadataBuilder copy;
  for (const char* key : {"general.architecture", "size", "epsilon", "yes", "words", "ids", "scores", "absent"})
    copy.copy(metadata, key);
  EXPECT_EQ(copy.head(0), head);
  EXPECT_FALSE(copy.has("absent"));
}

TEST(GgufMetadataBuilder, RefusesAKeyTwiceAndKeysThatCantBeRead) {
  GgufMetadataBuilder builder = every_kind();
  EXPECT_THAT(error_of([&] { builder.set_u32("size", 1); }), HasSubstr("'size' is set twice"));
  EXPECT_THAT(error_of([&] { builder.set_u32("", 1); }), HasSubstr("can't be written"));
  EXPECT_THAT(error_of([&] { builder.set_u32("a\n", 1); }), HasSubstr("can't be written"));
}

using GgufWriterTest = test::FolderTest;

HostTensor counted(const Shape& shape) {
  HostTensor tensor(DType::f32, shape);
  const auto values = tensor.span<float>();
  std::iota(values.begin(), values.end(), 1.0F);
  return tensor;
}

TEST_F(GgufWriterTest, WritesTensorsThatAreReadBackBitForBit) {
  const HostTensor norm = counted({5}), matrix = counted({3, 64}), quantized(DType::q8_0, {3, 64});
  convert(matrix, quantized);
  GgufWriter writer(path("m.gguf"), every_kind(),
                    {{"output_norm.weight", DType::f32, {5}},
                     {"token_embd.weight", DType::q8_0, {3, 64}},
                     {"output.weight", DType::f32, {3, 64}}});
  writer.write(norm);
  writer.write(quantized.view().slice(0, 0, 1));  // in two pieces
  writer.write(quantized.view().slice(0, 1, 2));
  writer.write(matrix);
  EXPECT_THAT(files(), ::testing::Not(::testing::Contains("m.gguf")));
  writer.commit();
  EXPECT_THAT(files(), ElementsAre("m.gguf"));
  const GgufFile file(path("m.gguf"));
  ASSERT_EQ(file.tensors().size(), 3U);
  for (const auto& [name, expected] : {std::pair<const char*, Tensor>{"backbone.norm_f.weight", norm},
                                       {"backbone.embeddings.weight", quantized},
                                       {"lm_head.weight", matrix}}) {
    const Tensor read = file.read(name);
    EXPECT_EQ(read.dtype, expected.dtype) << name;
    ASSERT_EQ(read.shape, expected.shape) << name;
    EXPECT_EQ(std::memcmp(read.data, expected.data, expected.bytes()), 0) << name;
  }
}

TEST_F(GgufWriterTest, RefusesTensorsThatDontFitTheLayout) {
  GgufWriter writer(path("m.gguf"), every_kind(), {{"w", DType::f32, {2, 2}}});
  EXPECT_THAT(error_of([&] { writer.write(HostTensor(DType::f16, {2, 2})); }), HasSubstr("tensor 'w' is f32 (2, 2)"));
  EXPECT_THAT(error_of([&] { writer.write(HostTensor(DType::f32, {3, 2})); }), HasSubstr("found f32 (3, 2)"));
  EXPECT_THAT(error_of([&] { writer.commit(); }), HasSubstr("0 of 1 tensors are written"));
  writer.write(HostTensor(DType::f32, {2, 2}));
  EXPECT_THAT(error_of([&] { writer.write(HostTensor(DType::f32, {2, 2})); }), HasSubstr("all its 1 tensors"));
}

TEST_F(GgufWriterTest, RefusesNamesAndShapesThatLlamaCppCantRead) {
  auto error = [&](const std::vector<TensorSpec>& tensors) {
    return error_of([&] { GgufWriter(path("m.gguf"), every_kind(), tensors); });
  };
  EXPECT_THAT(error({{std::string(64, 'n'), DType::f32, {1}}}), HasSubstr("at most 63 bytes"));
  EXPECT_THAT(error({{"", DType::f32, {1}}}), HasSubstr("can't be named ''"));
  EXPECT_THAT(error({{"w", DType::f32, {1}}, {"w", DType::f32, {1}}}), HasSubstr("'w' is to be written twice"));
  EXPECT_THAT(error({{"w", DType::f32, {1, 1, 1, 1, 1}}}), HasSubstr("expected 1 to 4 dimensions"));
  EXPECT_THAT(error({{"w", DType::boolean, {1}}}), HasSubstr("no type for dtype bool"));
  EXPECT_TRUE(files().empty());
}

}  // namespace
}  // namespace mamba2
