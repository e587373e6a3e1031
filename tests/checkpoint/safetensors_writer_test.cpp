#include "mamba2/checkpoint/safetensors_writer.h"

#include "mamba2/checkpoint/safetensors.h"
#include "test_files.h"

namespace mamba2 {
namespace {

using test::error_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SafetensorsWriterTest : public test::FolderTest {
 protected:
  std::string file() const { return path("model.safetensors"); }

  static HostTensor counting(DType dtype, const Shape& shape) {
    const HostTensor floats(DType::f32, shape), out(dtype, shape);
    for (std::int64_t i = 0; i < shape.elements(); ++i) floats.view().as<float>()[i] = static_cast<float>(i);
    convert(floats, out);
    return HostTensor(std::move(const_cast<HostTensor&>(out)));
  }

  void save(const std::vector<std::pair<TensorSpec, Tensor>>& tensors) const {
    std::vector<TensorSpec> specs;
    for (const auto& [spec, ignored] : tensors) specs.push_back(spec);
    SafetensorsWriter writer(file(), specs);
    for (const TensorSpec& spec : writer.tensors())
      for (const auto& [candidate, tensor] : tensors)
        if (candidate.name == spec.name) writer.write(tensor);
    writer.finish();
    writer.commit();
  }
};

TEST_F(SafetensorsWriterTest, WhatIsWrittenIsReadBack) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    const HostTensor matrix = counting(dtype, {3, 5}), scalar = counting(dtype, {}), nothing = counting(dtype, {0, 2});
    save({{{"m", dtype, {3, 5}}, matrix}, {{"s", dtype, {}}, scalar}, {{"n", dtype, {0, 2}}, nothing}});
    const SafetensorsFile source(file());
    EXPECT_EQ(source.tensors().size(), 3U);
    const Tensor read = source.read("m");
    EXPECT_EQ(read.dtype, dtype);
    EXPECT_EQ(read.shape, Shape({3, 5}));
    EXPECT_EQ(std::memcmp(read.data, matrix.view().data, read.bytes()), 0);
    EXPECT_EQ(source.read("n").elements(), 0);
  }
}

TEST_F(SafetensorsWriterTest, LaysTheFileOutAsTheFormatAsks) {
  const HostTensor bytes(DType::u8, {3}), halves = counting(DType::f16, {1}), floats = counting(DType::f32, {1});
  save({{{"b", DType::u8, {3}}, bytes}, {{"h", DType::f16, {1}}, halves}, {{"f", DType::f32, {1}}, floats}});
  const std::string text = read_file(file());
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"f":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
      R"("h":{"dtype":"F16","shape":[1],"data_offsets":[4,6]},"b":{"dtype":"U8","shape":[3],"data_offsets":[6,9]}})";
  EXPECT_EQ(text.substr(8, header.size()), header);
  const auto length = static_cast<std::uint64_t>(text.size() - 8 - 9);
  EXPECT_EQ(text.substr(0, 8), test::le(length));
  EXPECT_EQ(length % 8, 0U);
  EXPECT_EQ(text.substr(8 + header.size(), length - header.size()), std::string(length - header.size(), ' '));
}

TEST_F(SafetensorsWriterTest, TheSameTensorsGiveTheSameBytes) {
  const HostTensor w = counting(DType::f32, {4});
  save({{{"w", DType::f32, {4}}, w}});
  const std::string first = read_file(file());
  save({{{"w", DType::f32, {4}}, w}});
  EXPECT_EQ(read_file(file()), first);
}

TEST_F(SafetensorsWriterTest, ConvertsAndGathersStridedTensorsBlockByBlock) {
  // 700 * 701 floats are more than one block of 1 MiB, also as rows of one transposed tensor.
  const HostTensor matrix = counting(DType::f32, {700, 701});
  Tensor transposed = matrix;
  transposed.shape = Shape({701, 700});
  transposed.strides = {1, 701};
  Tensor wide = transposed;
  wide.shape = Shape({1, 701, 700});
  wide.strides = {0, 1, 701};
  save({{{"t", DType::f64, {701, 700}}, transposed}, {{"w", DType::f32, {1, 701, 700}}, wide}});
  const SafetensorsFile source(file());
  const auto* const t = source.read("t").as<const double>();
  const auto* const w = source.read("w").as<const float>();
  for (std::int64_t i = 0; i < 701; ++i) {
    for (std::int64_t j = 0; j < 700; ++j) {
      ASSERT_EQ(t[i * 700 + j], static_cast<double>(j * 701 + i));
      ASSERT_EQ(w[i * 700 + j], static_cast<float>(j * 701 + i));
    }
  }
}

TEST_F(SafetensorsWriterTest, EscapesNamesAndKeepsMetadata) {
  const std::string name = "quote\" back\\slash é";
  SafetensorsWriter writer(file(), {{name, DType::u8, {0}}}, {{"format", "pt"}, {"a", "\n"}});
  writer.write(HostTensor(DType::u8, {0}));
  writer.finish();
  writer.commit();
  EXPECT_NE(SafetensorsFile(file()).find(name), nullptr);
  EXPECT_THAT(read_file(file()), HasSubstr(R"({"__metadata__":{"a":"\n","format":"pt"})"));
}

TEST_F(SafetensorsWriterTest, RefusesWhatDoesNotFitTheLayout) {
  SafetensorsWriter writer(file(), {{"w", DType::f32, {2}}, {"i", DType::i32, {2}}});
  EXPECT_THAT(error_of([&] { writer.write(HostTensor(DType::f32, {3})); }),
              HasSubstr("tensor 'w' is f32 (3), expected a host tensor f32 (2)"));
  EXPECT_THAT(error_of([&] { writer.write(HostTensor(DType::i64, {2})); }), HasSubstr("is i64 (2)"));
  writer.write(HostTensor(DType::f64, {2}));
  EXPECT_THAT(error_of([&] { writer.write(HostTensor(DType::f32, {2})); }), HasSubstr("tensor 'i' is f32"));
  EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr("1 of 2 tensors are written"));
  writer.write(HostTensor(DType::i32, {2}));
  EXPECT_THAT(error_of([&] { writer.write(HostTensor(DType::f32, {2})); }), HasSubstr("all its 2 tensors"));
}

TEST_F(SafetensorsWriterTest, RefusesNamesThatReadersWouldRefuse) {
  const auto error = [&](const std::string& a, const std::string& b) {
    return error_of([&] { SafetensorsWriter(file(), {{a, DType::f32, {}}, {b, DType::f32, {}}}); });
  };
  EXPECT_THAT(error("w", "w"), HasSubstr("tensor 'w' is to be written twice"));
  EXPECT_THAT(error("w", "__metadata__"), HasSubstr("can't be named '__metadata__'"));
  EXPECT_THAT(error("w\xff", "v"), HasSubstr("can't be named 'w\\xff'"));
  EXPECT_TRUE(files().empty());
}

TEST_F(SafetensorsWriterTest, NothingAppearsWithoutCommit) {
  {
    SafetensorsWriter writer(file(), {{"w", DType::f32, {}}});
    writer.write(HostTensor(DType::f32, {}));
    writer.finish();
    EXPECT_FALSE(file_exists(file()));
  }
  EXPECT_TRUE(files().empty());
}

}  // namespace
}  // namespace mamba2
