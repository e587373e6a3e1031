#include "mamba2/checkpoint/safetensors.h"

#include <sys/resource.h>

#include "mamba2/base/random.h"
#include "test_files.h"

namespace mamba2 {
namespace {

using test::bytes_of;
using test::error_of;
using test::safetensors;
using ::testing::HasSubstr;

constexpr std::string_view two_tensors =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]},)"
    R"("a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})";

std::string parse_error(std::string_view header, std::string_view data = "") {
  const std::string file = safetensors(header, data);
  return error_of([&] { parse_safetensors(bytes_of(file), "model.safetensors"); });
}

std::string one_tensor(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"({{"w":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets);
}

/// A file that parses must describe itself truly: ranges that tile the data.
void expect_sane(const std::string& file) {
  std::vector<SafetensorsEntry> entries;
  try {
    entries = parse_safetensors(bytes_of(file), "model.safetensors");
  } catch (const Error& e) {
    EXPECT_TRUE(std::string_view(e.what()).starts_with("model.safetensors: ")) << e.what();
    return;
  }
  std::size_t end = entries.empty() ? file.size() : entries.front().begin;
  for (const SafetensorsEntry& entry : entries) {
    EXPECT_EQ(entry.begin, end);
    EXPECT_EQ(entry.end - entry.begin, static_cast<std::size_t>(entry.shape.elements()) * element_size(entry.dtype));
    end = entry.end;
  }
  EXPECT_EQ(end, file.size());
}

TEST(Safetensors, ListsTensorsInTheOrderOfTheirValues) {
  const std::string file = safetensors(two_tensors, std::string(12, '\0'));
  const auto entries = parse_safetensors(bytes_of(file), "x");
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].name, "a");
  EXPECT_EQ(entries[0].dtype, DType::bf16);
  EXPECT_EQ(entries[0].shape, Shape({2}));
  EXPECT_EQ(entries[0].begin, 8 + two_tensors.size());
  EXPECT_EQ(entries[1].shape, Shape({2, 1}));
  EXPECT_EQ(entries[1].end, file.size());
}

TEST(Safetensors, TakesScalarsEmptyTensorsAndNoTensorsAtAll) {
  const std::string file = safetensors(R"({"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
                                       R"("e":{"dtype":"BOOL","shape":[0,3],"data_offsets":[0,0]}}   )",
                                       std::string(8, '\0'));
  const auto entries = parse_safetensors(bytes_of(file), "x");
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].name, "e");
  EXPECT_EQ(entries[1].shape.rank(), 0);
  EXPECT_TRUE(parse_safetensors(bytes_of(safetensors("{}")), "x").empty());
}

TEST(Safetensors, NamesTensorAndDtypeThatItDoesNotKnow) {
  EXPECT_EQ(
      parse_error(one_tensor(R"("F8_E4M3")", "[1]", "[0,1]"), "x"),
      "model.safetensors: tensor 'w' has dtype 'F8_E4M3', expected F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL");
}

TEST(Safetensors, RefusesRangesThatDoNotFitShapeFileOrEachOther) {
  EXPECT_THAT(parse_error(one_tensor(R"("F32")", "[2]", "[0,4]"), "1234"),
              HasSubstr("data_offsets [0, 4] do not fit F32"));
  EXPECT_THAT(parse_error(one_tensor(R"("F32")", "[1]", "[4,0]"), "1234"), HasSubstr("data_offsets [4, 0]"));
  EXPECT_THAT(parse_error(one_tensor(R"("F32")", "[2]", "[0,8]"), "1234"), HasSubstr("is it cut off?"));
  EXPECT_THAT(parse_error(one_tensor(R"("U8")", "[2]", "[0,2]"), "1234"), HasSubstr("the file holds 4"));
  EXPECT_THAT(parse_error(one_tensor(R"("U8")", "[2]", "[2,4]"), "1234"), HasSubstr("leave a hole"));
  EXPECT_THAT(parse_error(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                          R"("b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                          "1234"),
              HasSubstr("tensor 'b' starts at byte 2 of the data, expected 3: tensors overlap"));
}

TEST(Safetensors, RefusesNumbersNear64BitsAndShapesThatOverflow) {
  for (const char* shape : {"[9223372036854775807]", "[9223372036854775808]", "[18446744073709551615]",
                            "[18446744073709551616]", "[4294967296,4294967296]", "[3037000500,3037000500,2]", "[-1]",
                            "[1.0]", "[1e3]", "[[1]]", "[1,1,1,1,1,1]", "4", "{}", "null", R"(["4"])"})
    EXPECT_THAT(parse_error(one_tensor(R"("F32")", shape, "[0,4]"), "1234"), HasSubstr("tensor 'w'")) << shape;
  for (const char* offsets : {"[0,9223372036854775807]", "[9223372036854775807,3]", "[18446744073709551612,0]", "[0]",
                              "[0,4,8]", "[-4,0]", "[0,4.0]", "[]", "4"})
    EXPECT_THAT(parse_error(one_tensor(R"("F32")", "[1]", offsets), "1234"), HasSubstr("tensor 'w'")) << offsets;
}

TEST(Safetensors, RefusesHeadersThatAreNoMapOfTensors) {
  EXPECT_THAT(parse_error("[]"), HasSubstr("does not start with '{'"));
  EXPECT_THAT(parse_error(" {}"), HasSubstr("does not start with '{'"));
  EXPECT_THAT(parse_error(R"({"w":3})"), HasSubstr("tensor 'w': expected an object, found a number"));
  EXPECT_THAT(parse_error(R"({"w":{"dtype":"F32"}})"), HasSubstr("lacks one of the fields"));
  EXPECT_THAT(parse_error(R"({"w":{"dtype":{}}})"), HasSubstr("field 'dtype': expected a string, found an object"));
  EXPECT_THAT(parse_error(R"({"w":{"layout":1}})"), HasSubstr("unknown field 'layout'"));
  EXPECT_THAT(parse_error(R"({"__metadata__":{"a":1}})"),
              HasSubstr("'__metadata__': expected strings, found a number"));
  EXPECT_THAT(parse_error(R"({"__metadata__":[]})"), HasSubstr("'__metadata__': expected an object, found an array"));
  EXPECT_THAT(parse_error(R"({"__metadata__":{},"__metadata__":{}})"), HasSubstr("duplicate key"));
  EXPECT_THAT(parse_error(R"({"w":{"dtype":"F32","dtype":"F32"}})"), HasSubstr("duplicate key 'dtype'"));
  EXPECT_THAT(parse_error("{\"w\xff\":1}"), HasSubstr("malformed JSON"));
}

TEST(Safetensors, RefusesJsonNestedHundredThousandDeep) {
  for (const char* open : {"[", R"({"a":)"}) {
    std::string header = R"({"w":)";
    for (int i = 0; i < 100'000; ++i) header += open;
    EXPECT_THAT(parse_error(header), HasSubstr("tensor 'w'"));
  }
}

TEST(Safetensors, RefusesHeaderLengthsThatTheFileDoesNotHave) {
  for (const std::uint64_t length : {std::uint64_t{3}, std::uint64_t{100'000'001}, std::uint64_t{1} << 63,
                                     (std::uint64_t{1} << 63) - 1, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    const std::string file = test::le(length) + "{}";
    EXPECT_THROW(parse_safetensors(bytes_of(file), "x"), Error) << length;
  }
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string file(read_file(test::golden("hf-basic/model.safetensors")));
  const std::size_t header = parse_safetensors(bytes_of(file), "x").front().begin;
  for (std::size_t length = 0; length < header; ++length)
    EXPECT_THROW(parse_safetensors(bytes_of(file).first(length), "x"), Error) << length;
  Random random(1);
  for (int i = 0; i < 1000; ++i) {
    const std::size_t length = header + random.next_u64() % (file.size() - header);
    EXPECT_THROW(parse_safetensors(bytes_of(file).first(length), "x"), Error) << length;
  }
}

TEST(Safetensors, EverySingleBitFlipOfTheHeaderGivesSaneTensorsOrAnError) {
  std::string file(read_file(test::golden("hf-odd/model.safetensors")));
  const std::size_t header = parse_safetensors(bytes_of(file), "x").front().begin;
  for (std::size_t bit = 0; bit < 8 * header; ++bit) {
    const auto mask = static_cast<char>(1 << bit % 8);
    file[bit / 8] = static_cast<char>(file[bit / 8] ^ mask);
    expect_sane(file);
    file[bit / 8] = static_cast<char>(file[bit / 8] ^ mask);
  }
}

std::int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

using SafetensorsFileTest = test::FolderTest;

TEST_F(SafetensorsFileTest, ReadsAlignedTensorsInPlaceAndCopiesMisalignedOnes) {
  std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                       R"("b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const SafetensorsFile source(write("x", safetensors(header, "\x07" + test::raw({1.5F, -2.0F}))));
  EXPECT_EQ(*source.read("a").as<std::uint8_t>(), 7);
  const Tensor b = source.read("b");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.data) % alignof(float), 0U);
  EXPECT_EQ(b.as<float>()[0], 1.5F);
  EXPECT_EQ(b.as<float>()[1], -2.0F);
  EXPECT_EQ(source.read("b").data, b.data);
}

TEST_F(SafetensorsFileTest, RefusesNamesThatAppearTwiceOrCannotBePrinted) {
  const std::string a = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})",
                    b = R"({"dtype":"U8","shape":[1],"data_offsets":[1,2]})";
  const std::string twice = write("twice", safetensors(R"({"w":)" + a + R"(,"w":)" + b + "}", "12"));
  EXPECT_EQ(error_of([&] { SafetensorsFile{twice}; }), twice + ": tensor 'w' appears twice");
  const std::string bell = write("bell", safetensors(R"({"w\u0007":)" + a + "}", "1"));
  EXPECT_THAT(error_of([&] { SafetensorsFile{bell}; }), HasSubstr("tensor name 'w\\x07' holds control characters"));
}

TEST_F(SafetensorsFileTest, AFileOfFiveGigabytesOpensWithoutReadingItsValues) {
  const std::int64_t bytes = 5'000'000'000;
  const std::string file =
      write("big", safetensors(fmt::format(R"({{"w":{{"dtype":"F16","shape":[{},1000],"data_offsets":[0,{}]}}}})",
                                           bytes / 2000, bytes)));
  std::filesystem::resize_file(file, std::filesystem::file_size(file) + static_cast<std::size_t>(bytes));
  const std::int64_t faults = page_faults();
  const SafetensorsFile source(file);
  const Tensor w = source.read("w");
  constexpr std::int64_t page = 4096;
  EXPECT_LT(page_faults() - faults, bytes / page / 100) << "an emulator of another processor has some of its own";
  EXPECT_EQ(w.bytes(), static_cast<std::size_t>(bytes));
  EXPECT_EQ(w.as<std::uint16_t>()[w.elements() - 1], 0);
}

}  // namespace
}  // namespace mamba2
