#include "mamba2/checkpoint/gguf.h"

#include <cmath>
#include <numeric>

#include "test_files.h"

namespace mamba2 {
namespace {

using test::bytes_of;
using test::error_of;
using test::le;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string text(std::string_view value) {
  return le<std::uint64_t>(value.size()).append(value);
}

std::string key(std::string_view name, GgufType type, const std::string& value) {
  return text(name) + le(static_cast<std::uint32_t>(type)) + value;
}

std::string array(GgufType type, std::uint64_t count, const std::string& elements) {
  return le(static_cast<std::uint32_t>(type)) + le(count) + elements;
}

struct TensorText {
  std::string name;
  std::vector<std::uint64_t> dimensions;  // innermost first, as in the file
  std::uint32_t type = 0;
  std::uint64_t offset = 0;
};

std::string describe(const TensorText& tensor) {
  std::string bytes = text(tensor.name) + le(static_cast<std::uint32_t>(tensor.dimensions.size()));
  for (const std::uint64_t extent : tensor.dimensions) bytes += le(extent);
  return bytes + le(tensor.type) + le(tensor.offset);
}

/// A file of version 3; data begins at the next multiple of 32.
std::string gguf(const std::vector<std::string>& keys, const std::vector<TensorText>& tensors = {},
                 const std::string& data = "") {
  std::string bytes =
      "GGUF" + le<std::uint32_t>(3) + le<std::uint64_t>(tensors.size()) + le<std::uint64_t>(keys.size());
  for (const std::string& one : keys) bytes += one;
  for (const TensorText& tensor : tensors) bytes += describe(tensor);
  bytes.resize((bytes.size() + 31) / 32 * 32, '\0');
  return bytes + data;
}

std::string metadata_error(const std::string& bytes) {
  return error_of([&] { GgufMetadata(bytes_of(bytes), "x"); });
}

std::string tensor_error(const std::string& bytes) {
  return error_of([&] { parse_gguf_tensors(bytes_of(bytes), GgufMetadata(bytes_of(bytes), "x")); });
}

TEST(GgufMetadata, ReadsEveryTypeOfValue) {
  const std::string bytes =
      gguf({key("u8", GgufType::u8, "\xFF"), key("i8", GgufType::i8, "\xFF"), key("u16", GgufType::u16, "\xFF\xFF"),
            key("i16", GgufType::i16, "\xFE\xFF"), key("u32", GgufType::u32, le(4'000'000'000U)),
            key("i32", GgufType::i32, le(-5)), key("u64", GgufType::u64, le(std::uint64_t{1} << 40)),
            key("i64", GgufType::i64, le(std::int64_t{-1} << 40)), key("f32", GgufType::f32, le(0.5F)),
            key("f64", GgufType::f64, le(0.1)), key("bool", GgufType::boolean, "\1"),
            key("string", GgufType::string, text("word")),
            key("texts", GgufType::array, array(GgufType::string, 2, text("a") + text(""))),
            key("ids", GgufType::array, array(GgufType::i32, 2, le(3) + le(-4)))});
  const GgufMetadata metadata(bytes_of(bytes), "x");
  EXPECT_EQ(metadata.integer("u8"), 255);
  EXPECT_EQ(metadata.integer("i8"), -1);
  EXPECT_EQ(metadata.integer("u16"), 65535);
  EXPECT_EQ(metadata.integer("i16"), -2);
  EXPECT_EQ(metadata.integer("u32"), 4'000'000'000);
  EXPECT_EQ(metadata.integer("i32"), -5);
  EXPECT_EQ(metadata.integer("u64"), std::int64_t{1} << 40);
  EXPECT_EQ(metadata.integer("i64"), -(std::int64_t{1} << 40));
  EXPECT_EQ(metadata.number("f32"), 0.5);
  EXPECT_EQ(metadata.number("f64"), 0.1);
  EXPECT_EQ(metadata.flag("bool"), true);
  EXPECT_EQ(metadata.text("string"), "word");
  EXPECT_THAT(*metadata.texts("texts"), ElementsAre("a", ""));
  EXPECT_THAT(*metadata.integers("ids"), ElementsAre(3, -4));
  EXPECT_THAT(*metadata.numbers("ids"), ElementsAre(3, -4));
  EXPECT_EQ(metadata.count("texts"), 2U);
  EXPECT_FALSE(metadata.integer("absent").has_value());
}

TEST(GgufMetadata, NamesAKeyWhoseValueIsOfAnotherType) {
  const std::string bytes = gguf({key("word", GgufType::string, text("a")), key("big", GgufType::u64, le(~0ULL)),
                                  key("ids", GgufType::array, array(GgufType::i32, 0, ""))});
  const GgufMetadata metadata(bytes_of(bytes), "x");
  EXPECT_EQ(error_of([&] { metadata.integer("word"); }),
            "x: metadata key 'word' is string, expected an integer that 63 bits hold");
  EXPECT_THAT(error_of([&] { metadata.integer("big"); }), HasSubstr("'big' is u64"));
  EXPECT_THAT(error_of([&] { metadata.texts("ids"); }), HasSubstr("array of i32, expected an array of strings"));
  EXPECT_THAT(error_of([&] { metadata.text("ids"); }), HasSubstr("expected a string"));
  EXPECT_THAT(error_of([&] { metadata.texts("word"); }), HasSubstr("expected an array"));
}

TEST(GgufMetadata, RefusesWhatIsMalformed) {
  EXPECT_THAT(metadata_error("GGML"), HasSubstr("no GGUF file"));
  EXPECT_THAT(metadata_error("GGUF" + le(1U) + std::string(16, '\0')), HasSubstr("version 1, expected 2 or 3"));
  EXPECT_THAT(metadata_error("GGUF" + le(3U) + le<std::uint64_t>(0) + le(~0ULL)), HasSubstr("metadata keys"));
  EXPECT_THAT(metadata_error(gguf({key("", GgufType::u8, "1")})), HasSubstr("is empty"));
  EXPECT_THAT(metadata_error(gguf({key("a\n", GgufType::u8, "1")})), HasSubstr("control characters"));
  EXPECT_THAT(metadata_error(gguf({key("a", GgufType::u8, "1"), key("a", GgufType::u8, "1")})),
              HasSubstr("'a' appears twice"));
  EXPECT_THAT(metadata_error(gguf({key("a", static_cast<GgufType>(13), "1")})), HasSubstr("has type 13"));
  EXPECT_THAT(metadata_error(gguf({key("a", GgufType::array, array(GgufType::array, 1, ""))})),
              HasSubstr("array of arrays"));
  EXPECT_THAT(metadata_error(gguf({le(~0ULL)})), HasSubstr("expected at most 65535"));
  for (const GgufType type : {GgufType::u64, GgufType::u8, GgufType::string})
    EXPECT_THAT(metadata_error(gguf({key("a", GgufType::array, array(type, ~0ULL / 8, ""))})), HasSubstr("'a'"));
  EXPECT_THAT(metadata_error(gguf({key("a", GgufType::string, le(~0ULL))})), HasSubstr("'a'"));
}

TEST(GgufMetadata, RefusesEveryFileThatIsCutOff) {
  const std::string bytes = "GGUF" + le(3U) + le<std::uint64_t>(0) + le<std::uint64_t>(2) +
                            key("word", GgufType::string, text("abc")) +
                            key("ids", GgufType::array, array(GgufType::i32, 2, le(3) + le(-4)));
  ASSERT_NO_THROW(GgufMetadata(bytes_of(bytes), "x"));
  for (std::size_t length = 0; length < bytes.size(); ++length)
    EXPECT_THROW(GgufMetadata(bytes_of(bytes.substr(0, length)), "x"), Error) << length;
}

TEST(GgufTensors, AreOrderedByPlaceWithTheirShapesTurned) {
  const std::string bytes =
      gguf({}, {{"b", {4, 2}, 1, 32}, {"a", {3}, 0, 0}, {"q", {32, 1}, 8, 64}}, std::string(64 + 34, '\0'));
  const auto entries = parse_gguf_tensors(bytes_of(bytes), GgufMetadata(bytes_of(bytes), "x"));
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[0].name, "a");
  EXPECT_EQ(entries[1].name, "b");
  EXPECT_EQ(entries[1].shape, (Shape{2, 4}));
  EXPECT_EQ(entries[1].dtype, DType::f16);
  EXPECT_EQ(entries[1].end - entries[1].begin, 16U);
  EXPECT_EQ(entries[2].dtype, DType::q8_0);
  EXPECT_EQ(entries[2].end, bytes.size());
}

TEST(GgufTensors, RefuseWhatIsMalformed) {
  const std::string data(64, '\0');
  auto error = [&](const TensorText& tensor) { return tensor_error(gguf({}, {tensor}, data)); };
  EXPECT_THAT(error({"w", {}, 0, 0}), HasSubstr("0 dimensions"));
  EXPECT_THAT(error({"w", {1, 1, 1, 1, 1}, 0, 0}), HasSubstr("5 dimensions"));
  EXPECT_THAT(error({"w", {~0ULL}, 0, 0}), HasSubstr("extent"));
  EXPECT_THAT(error({"w", {1ULL << 40, 1ULL << 40}, 0, 0}), HasSubstr("more elements than 64 bits"));
  EXPECT_THAT(error({"w", {4}, 10, 0}), HasSubstr("ggml type 10"));
  EXPECT_THAT(error({"w", {33}, 8, 0}), HasSubstr("expected a multiple of 32"));
  EXPECT_THAT(error({"w", {4}, 0, 8}), HasSubstr("expected a multiple of 32"));
  EXPECT_THAT(error({"w", {4}, 0, 64}), HasSubstr("is it cut off?"));
  EXPECT_THAT(error({"w", {4}, 0, ~0ULL - 31}), HasSubstr("begins at byte"));
  EXPECT_THAT(tensor_error(gguf({}, {{"w", {16}, 0, 0}, {"v", {4}, 0, 32}}, data)), HasSubstr("inside another"));
  EXPECT_THAT(tensor_error(gguf({}, {{"w", {4}, 0, 0}, {"w", {4}, 0, 32}}, data)), HasSubstr("appears twice"));
  for (const std::uint32_t alignment : {0U, 4U, 48U, 1U << 30})
    EXPECT_THAT(tensor_error(gguf({key("general.alignment", GgufType::u32, le(alignment))})),
                HasSubstr("expected a power of two"));
  std::string many = gguf({});
  many.replace(8, 8, le(std::uint64_t{1} << 60));
  EXPECT_THAT(tensor_error(many), HasSubstr("expected at most 65536"));
}

TEST(GgufNames, GoBothWays) {
  for (const char* name :
       {"token_embd.weight", "output_norm.weight", "output.weight", "blk.0.attn_norm.weight", "blk.12.ssm_in.weight",
        "blk.3.ssm_conv1d.weight", "blk.3.ssm_conv1d.bias", "blk.3.ssm_dt.bias", "blk.3.ssm_a", "blk.3.ssm_d",
        "blk.3.ssm_norm.weight", "blk.3.ssm_out.weight"}) {
    EXPECT_NE(name_from_gguf(name), name);
    EXPECT_EQ(name_to_gguf(name_from_gguf(name)), name);
  }
  EXPECT_EQ(name_from_gguf("blk.12.ssm_dt.bias"), "backbone.layers.12.mixer.dt_bias");
  EXPECT_EQ(name_from_gguf("blk.x.ssm_a"), "blk.x.ssm_a");
  EXPECT_EQ(name_to_gguf("backbone.layers.0.mlp.fc1.weight"), "");
}

using GgufFileTest = test::FolderTest;

TEST_F(GgufFileTest, GivesALogAndHuggingFacesShapes) {
  const std::vector<float> values{-1.0F, -2.0F};
  const std::string a(reinterpret_cast<const char*>(values.data()), 8);
  const auto source = open_tensors(write("m.gguf", gguf({},
                                                        {{"blk.0.ssm_a", {1, 2}, 0, 0},
                                                         {"blk.0.ssm_conv1d.weight", {4, 3}, 0, 32},
                                                         {"blk.0.ssm_norm.weight", {2, 3}, 0, 96}},
                                                        a + std::string(112, '\0'))));
  EXPECT_EQ(source->format(), "gguf");
  const Tensor A_log = source->read("backbone.layers.0.mixer.A_log");
  ASSERT_EQ(A_log.shape, (Shape{2}));
  EXPECT_EQ(A_log.as<float>()[0], 0.0F);
  EXPECT_EQ(A_log.as<float>()[1], std::log(2.0F));
  EXPECT_EQ(source->read("backbone.layers.0.mixer.conv1d.weight").shape, (Shape{3, 1, 4}));
  EXPECT_EQ(source->read("backbone.layers.0.mixer.norm.weight").shape, (Shape{6}));
}

TEST_F(GgufFileTest, RefusesAnAThatIsNotNegative) {
  const auto source = open_tensors(write("m.gguf", gguf({}, {{"blk.0.ssm_a", {1, 2}, 0, 0}}, std::string(8, '\0'))));
  EXPECT_THAT(error_of([&] { source->read("backbone.layers.0.mixer.A_log"); }), HasSubstr("'blk.0.ssm_a' holds 0"));
}

}  // namespace
}  // namespace mamba2
