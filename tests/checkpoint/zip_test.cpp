#include "mamba2/checkpoint/zip.h"

#include "test_files.h"

namespace mamba2 {
namespace {

using test::bytes_of;
using test::le;
using test::ZipBuilder;
using ::testing::HasSubstr;

std::string error_of(const std::string& file) {
  return test::error_of([&] { ZipArchive(bytes_of(file), "x.bin"); });
}

ZipBuilder two_entries() {
  return ZipBuilder().add("b", "second").add("a", "first one");
}

std::string_view content(const std::string& file, const ZipEntry& entry) {
  return std::string_view(file).substr(entry.begin, entry.size);
}

/// The archive of two_entries() with its directory described by a zip64 record.
std::string with_zip64(std::uint16_t entries, std::uint32_t size, std::uint32_t offset,
                       std::uint64_t record_entries = 2, std::uint64_t locator_shift = 0) {
  const std::string head = two_entries().local(), middle = two_entries().directory();
  const std::string record = "PK\x06\x06" + le<std::uint64_t>(44) + std::string(4, '\0') + le<std::uint64_t>(0) +
                             le(record_entries) + le(record_entries) + le<std::uint64_t>(middle.size()) +
                             le<std::uint64_t>(head.size());
  const std::string locator = "PK\x06\x07" + le<std::uint32_t>(0) +
                              le<std::uint64_t>(head.size() + middle.size() + locator_shift) + le<std::uint32_t>(1);
  return head + middle + record + locator + ZipBuilder::end(entries, size, offset);
}

TEST(Zip, FindsStoredEntriesWhereTheyLie) {
  const std::string file = two_entries().build();
  const ZipArchive archive(bytes_of(file), "x.bin");
  ASSERT_EQ(archive.entries().size(), 2U);
  EXPECT_EQ(content(file, *archive.find("a")), "first one");
  EXPECT_EQ(content(file, *archive.find("b")), "second");
  EXPECT_EQ(archive.find("c"), nullptr);
}

TEST(Zip, TakesACommentAtTheEnd) {
  std::string file = two_entries().build();
  file.replace(file.size() - 2, 2, le<std::uint16_t>(5) + "hello");
  EXPECT_EQ(ZipArchive(bytes_of(file), "x").entries().size(), 2U);
}

TEST(Zip, ReadsTheZip64DirectoryRecord) {
  const std::string file = with_zip64(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF);
  EXPECT_EQ(content(file, *ZipArchive(bytes_of(file), "x").find("b")), "second");
  EXPECT_THAT(error_of(with_zip64(3, 0xFFFFFFFF, 0xFFFFFFFF)), HasSubstr("contradict each other"));
  EXPECT_THAT(error_of(with_zip64(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, std::uint64_t{1} << 62)), HasSubstr("claims"));
  EXPECT_THAT(error_of(with_zip64(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 2, 1)), HasSubstr("zip64"));
  EXPECT_THAT(error_of(with_zip64(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 2, ~std::uint64_t{0} - 60)), HasSubstr("zip64"));
}

TEST(Zip, ReadsSizesAndOffsetsOfZip64Fields) {
  ZipBuilder zip = ZipBuilder().add("a", "content");
  zip.last().size = zip.last().packed = zip.last().offset = 0xFFFFFFFF;
  zip.last().extra = le<std::uint16_t>(7) + le<std::uint16_t>(2) + "??" + le<std::uint16_t>(1) + le<std::uint16_t>(24) +
                     le<std::uint64_t>(7) + le<std::uint64_t>(7) + le<std::uint64_t>(0);
  const std::string file = zip.build();
  EXPECT_EQ(content(file, *ZipArchive(bytes_of(file), "x").find("a")), "content");
  zip.last().extra.resize(20);
  EXPECT_THAT(error_of(zip.build()), HasSubstr("'a' lacks its zip64 field"));
  zip.last().extra = le<std::uint16_t>(1) + le<std::uint16_t>(8) + le<std::uint64_t>(7);
  EXPECT_THAT(error_of(zip.build()), HasSubstr("zip64 field of 8 bytes, too short"));
  zip.last().extra = le<std::uint16_t>(1) + le<std::uint16_t>(24) + le(~std::uint64_t{0}) + le(~std::uint64_t{0}) +
                     le<std::uint64_t>(0);
  EXPECT_THAT(error_of(zip.build()), HasSubstr("leaves the file"));
}

TEST(Zip, TakesSizesThatOnlyTheDirectoryKnows) {
  ZipBuilder zip = ZipBuilder().add("a", "content");
  zip.last().flags = 0x808;
  zip.last().local_size = 0;
  EXPECT_EQ(ZipArchive(bytes_of(zip.build()), "x").find("a")->size, 7U);
  zip.last().flags = 0;
  EXPECT_THAT(error_of(zip.build()), HasSubstr("'a' contradicts its local header"));
}

TEST(Zip, RefusesCompressedAndEncryptedEntries) {
  ZipBuilder zip = two_entries();
  zip.last().method = 8;
  EXPECT_EQ(error_of(zip.build()),
            "x.bin: zip entry 'a' is compressed (method 8), expected stored entries as torch.save writes");
  zip = two_entries();
  zip.last().flags = 1;
  EXPECT_THAT(error_of(zip.build()), HasSubstr("'a' is encrypted"));
}

TEST(Zip, RefusesSizesThatDoNotFit) {
  ZipBuilder zip = two_entries();
  zip.last().size = 8;
  EXPECT_THAT(error_of(zip.build()), HasSubstr("stored in 9 bytes, yet 8 bytes long"));
  zip = two_entries();
  zip.last().size = zip.last().packed = 10;
  EXPECT_THAT(error_of(zip.build()), HasSubstr("leaves the file"));
  zip.last().size = zip.last().packed = 0x7FFFFFFF;
  EXPECT_THAT(error_of(zip.build()), HasSubstr("leaves the file"));
  zip.last().size = zip.last().packed = 0xFFFFFFFF;
  EXPECT_THAT(error_of(zip.build()), HasSubstr("lacks its zip64 field"));
}

TEST(Zip, RefusesOverlapWrongOffsetsAndRepeatedNames) {
  ZipBuilder zip = two_entries();
  zip.last().offset = 5;
  EXPECT_THAT(error_of(zip.build()), HasSubstr("no local header at byte 5"));
  zip.last().offset = 0;
  EXPECT_THAT(error_of(zip.build()), HasSubstr("contradicts its local header"));
  zip.last().offset = 0xFFFFFFF0;
  EXPECT_THAT(error_of(zip.build()), HasSubstr("no local header"));
  EXPECT_THAT(error_of(ZipBuilder().add("a", "1").add("a", "2").build()), HasSubstr("'a' appears twice"));
  // The second entry lies inside the first one's data.
  const std::string inner = ZipBuilder().add("in", "data").local();
  ZipBuilder nested = ZipBuilder().add("out", inner).add("in", "data");
  nested.last().offset = 33;
  EXPECT_THAT(error_of(nested.build()), HasSubstr("overlaps another"));
}

TEST(Zip, RefusesDirectoriesThatAreElsewhereOrTooLong) {
  const std::string head = two_entries().local(), middle = two_entries().directory();
  const auto at = static_cast<std::uint32_t>(head.size()), size = static_cast<std::uint32_t>(middle.size());
  const auto archive = [&](std::uint16_t entries, std::uint32_t length, std::uint32_t offset) {
    return head + middle + ZipBuilder::end(entries, length, offset);
  };
  EXPECT_EQ(ZipArchive(bytes_of(archive(2, size, at)), "x").entries().size(), 2U);
  EXPECT_THAT(error_of(archive(2, size, at + 1)), HasSubstr("zip directory should lie in"));
  EXPECT_THAT(error_of(archive(2, 0xFFFFFFFF, 0xFFFFFFFF)), HasSubstr("zip directory should lie in"));
  EXPECT_THAT(error_of(archive(1, size, at)), HasSubstr("bytes after its last entry"));
  EXPECT_THAT(error_of(archive(3, size, at)), HasSubstr("claims 3 entries"));
  EXPECT_THAT(error_of(archive(0xFFFF, size, at)), HasSubstr("claims 65535 entries"));
}

TEST(Zip, EveryTruncationIsRefused) {
  const std::string file = with_zip64(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF);
  for (std::size_t length = 0; length < file.size(); ++length)
    EXPECT_THROW(ZipArchive(bytes_of(file).first(length), "x"), Error) << length;
}

}  // namespace
}  // namespace mamba2
