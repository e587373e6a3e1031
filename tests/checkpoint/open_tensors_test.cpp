#include "mamba2/checkpoint/sharded.h"
#include "mamba2/checkpoint/tensor_source.h"
#include "test_files.h"

namespace mamba2 {
namespace {

using test::error_of;
using test::safetensors;
using ::testing::HasSubstr;
namespace op = test::op;

std::string bytes_file(const std::string& name, const std::string& data) {
  return safetensors(
      fmt::format(R"({{"{}":{{"dtype":"U8","shape":[{}],"data_offsets":[0,{}]}}}})", name, data.size(), data.size()),
      data);
}

class OpenTensorsTest : public test::FolderTest {
 protected:
  std::string error() const {
    return error_of([&] { open_tensors(path()); });
  }
  std::string value(const std::string& name) const {
    const auto source = open_tensors(path());
    const Tensor tensor = source->read(name);
    return std::string(tensor.as<const char>(), tensor.bytes());
  }
};

TEST_F(OpenTensorsTest, PrefersAnIndexThenSafetensorsThenPyTorch) {
  const std::string storage = op::storage("ByteStorage", "0", 3);
  write("pytorch_model.bin", test::torch_file(op::dict({{"w", op::tensor(storage, 0, {3}, {1})}}), {{"0", "zip"}}));
  EXPECT_EQ(value("w"), "zip");
  write("consolidated.safetensors", bytes_file("w", "consolidated"));
  EXPECT_EQ(value("w"), "consolidated");
  write("model.safetensors", bytes_file("w", "single"));
  EXPECT_EQ(value("w"), "single");
  write("model-00001-of-00001.safetensors", bytes_file("w", "sharded"));
  write("model.safetensors.index.json", R"({"weight_map":{"w":"model-00001-of-00001.safetensors"}})");
  EXPECT_EQ(value("w"), "sharded");
}

TEST_F(OpenTensorsTest, TellsContainersByContentNotByName) {
  write("a", bytes_file("w", "1"));
  write("b.safetensors",
        test::torch_file(op::dict({{"w", op::tensor(op::storage("ByteStorage", "0", 1), 0, {1}, {1})}}), {{"0", "1"}}));
  write("c.bin", R"( {"weight_map": {"w": "a"}})");
  EXPECT_EQ(open_tensors(path("a"))->format(), "safetensors");
  EXPECT_EQ(open_tensors(path("b.safetensors"))->format(), "pytorch");
  EXPECT_EQ(open_tensors(path("c.bin"))->tensors().size(), 1U);
}

TEST_F(OpenTensorsTest, SaysWhatItLookedForAndWhatItFound) {
  EXPECT_EQ(error(), path() +
                         ": holds no weights, expected one of model.safetensors.index.json, model.safetensors, "
                         "consolidated.safetensors.index.json, consolidated.safetensors, pytorch_model.bin.index.json, "
                         "pytorch_model.bin");
  EXPECT_THAT(error_of([&] { open_tensors(path("absent")); }), HasSubstr("absent: can't be opened: No such file"));
  const auto error_for = [&](const std::string& bytes) { return error_of([&] { open_tensors(write("x", bytes)); }); };
  EXPECT_THAT(error_for("\x80\x02\x8a\x0al\xfc\x9c"
                        "F\xf9 j\xa8P\x19."),
              HasSubstr("format of PyTorch before 1.6"));
  EXPECT_THAT(error_for("GGUF" + std::string(100, '\0')), HasSubstr("is GGUF version 0"));
  EXPECT_THAT(error_for("version https://git-lfs.github.com/spec/v1\n"), HasSubstr("git lfs pull"));
  EXPECT_THAT(error_for(""), HasSubstr("is 0 bytes, too short"));
  EXPECT_THAT(error_for("<!DOCTYPE html><html></html>"), HasSubstr("is no safetensors file"));
  const auto source = open_tensors(write("x", bytes_file("w", "1")));
  EXPECT_EQ(source->find("v"), nullptr);
  EXPECT_EQ(error_of([&] { source->read("v"); }), path("x") + ": there is no tensor 'v'");
}

TEST_F(OpenTensorsTest, RefusesShardNamesThatAreNoFilesBesideTheIndex) {
  write("a", bytes_file("w", "1"));
  for (const char* name : {"../a", "/a", "sub/a", "..", ".", "", "a\\\\b", "a\\u0000", "./a", "..\\\\a", "a\\n"}) {
    write("model.safetensors.index.json", fmt::format(R"({{"weight_map":{{"w":"{}"}}}})", name));
    EXPECT_THAT(error(), HasSubstr("expected the name of a file beside the index")) << name;
  }
}

TEST_F(OpenTensorsTest, RefusesIndexesThatDoNotFitTheirShards) {
  write("a", bytes_file("w", "1"));
  write("b", bytes_file("v", "2"));
  const auto index_error = [&](const std::string& index) {
    write("model.safetensors.index.json", index);
    return error();
  };
  EXPECT_THAT(index_error(R"({"weight_map":{"w":"absent"}})"), HasSubstr("absent: is missing, expected by"));
  EXPECT_THAT(index_error(R"({"weight_map":{"w":"b"}})"),
              HasSubstr("places tensor 'w' in 'b', which does not hold it"));
  EXPECT_THAT(index_error(R"({"weight_map":{"w":"a","w":"a"}})"), HasSubstr("duplicate key 'w'"));
  EXPECT_THAT(index_error(R"({"weight_map":{}})"), HasSubstr("'weight_map' is empty"));
  EXPECT_THAT(index_error(R"({"metadata":{}})"), HasSubstr("has no field 'weight_map'"));
  EXPECT_THAT(index_error(R"({"weight_map":{},"weight_map":{}})"), HasSubstr("duplicate key 'weight_map'"));
  EXPECT_THAT(index_error(R"({"weight_map":3})"), HasSubstr("field 'weight_map': expected an object, found a number"));
  EXPECT_THAT(index_error(R"({"weight_map":[]})"), HasSubstr("expected an object, found an array"));
  EXPECT_THAT(index_error(R"({"weight_map":{"w":3}})"),
              HasSubstr("tensor 'w': expected a file's name, found a number"));
  EXPECT_THAT(index_error(R"({"weight_map":{"w":{}}})"), HasSubstr("expected a file's name, found an object"));
  EXPECT_THAT(index_error("{\"a\":" + std::string(100'000, '[')), HasSubstr("JSON ends too early"));
  EXPECT_THAT(index_error(R"({"weight_map":{"w":"model.safetensors.index.json"}})"),
              HasSubstr("is JSON, expected tensors"));
}

TEST_F(OpenTensorsTest, WalksOverWhateverElseAnIndexHolds) {
  write("a", bytes_file("w", "1"));
  write("model.safetensors.index.json",
        R"({"metadata":{"weight_map":{"w":3},"x":[1,{"y":null}]},"n":-1,"weight_map":{"w":"a"},"t":[true,1.5,"s"]})");
  EXPECT_EQ(value("w"), "1");
}

TEST_F(OpenTensorsTest, LeavesOutTensorsThatTheIndexDoesNotName) {
  write("a", safetensors(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                         R"("v":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                         "12"));
  write("model.safetensors.index.json", R"({"weight_map":{"v":"a"}})");
  EXPECT_EQ(open_tensors(path())->tensors().size(), 1U);
  EXPECT_EQ(value("v"), "2");
}

}  // namespace
}  // namespace mamba2
