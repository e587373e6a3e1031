#include <limits>

#include "mamba2/base/file.h"
#include "mamba2/checkpoint/gguf.h"
#include "test_files.h"

/// A whole file's head, broken in every place.
namespace mamba2 {
namespace {

using test::bytes_of;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string fixture() {
  return read_file(MAMBA2_SOURCE_DIR "/tests/data/gguf/hf-groups-q8_0.gguf");
}

/// Where the tensors' values begin.
std::size_t head_bytes(const std::string& file) {
  return parse_gguf_tensors(bytes_of(file), GgufMetadata(bytes_of(file), "x")).front().begin;
}

/// Reads all there is; what comes through must lie inside the file, end to end without overlap.
void read_all(const std::string& file) {
  const GgufMetadata metadata(bytes_of(file), "x");
  for (const std::string& key : metadata.keys()) {
    EXPECT_TRUE(metadata.encoded(key).has_value());
    for (const auto& read : {+[](const GgufMetadata&m, const std::string&k) { m.texts(k); },
                             +[](const GgufMetadata&m, const std::string&k) { m.numbers(k); },
                             +[](const GgufMetadata&m, const std::string&k) { m.integer(k); }}) {
      try {
        read(metadata, key);
      } catch (const Error& e) {
        EXPECT_THAT(e.what(), StartsWith("x: metadata key '"));
      }
    }
  }
  std::size_t end = 0;
  for (const GgufEntry& entry : parse_gguf_tensors(bytes_of(file), metadata)) {
    EXPECT_GE(entry.begin, end);
    EXPECT_LE(entry.end, file.size());
    EXPECT_EQ(entry.end - entry.begin, bytes_for(entry.dtype, entry.shape.elements()));
    end = entry.end;
  }
}

/// Reads it or says in one line what is wrong.  Whether it was read.
bool survives(const std::string& file) {
  try {
    read_all(file);
    return true;
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), StartsWith("x: "));
    EXPECT_THAT(e.what(), Not(HasSubstr("\n")));
    return false;
  }
}

TEST(HostileGguf, IsRefusedWhereverItIsCutOff) {
  const std::string file = fixture();
  const std::size_t head = head_bytes(file);
  for (std::size_t length = 0; length < head; ++length) EXPECT_FALSE(survives(file.substr(0, length))) << length;
  EXPECT_FALSE(survives(file.substr(0, head)));
  EXPECT_TRUE(survives(file));
}

TEST(HostileGguf, WithAnyBitOfItsHeadTurnedIsReadOrRefused) {
  std::string file = fixture();
  const std::size_t head = head_bytes(file);
  std::size_t refused = 0;
  for (std::size_t bit = 0; bit < 8 * head; ++bit) {
    const char mask = static_cast<char>(1 << bit % 8);
    file[bit / 8] = static_cast<char>(file[bit / 8] ^ mask);
    refused += survives(file) ? 0 : 1;
    file[bit / 8] = static_cast<char>(file[bit / 8] ^ mask);
  }
  EXPECT_GE(refused, head);  // lengths, counts, types and offsets; letters of a name and values pass
}

TEST(HostileGguf, WithAnyEightBytesOfItsHeadTakenForALargeNumberIsReadOrRefused) {
  const std::string file = fixture();
  const std::size_t head = head_bytes(file);
  for (const std::uint64_t number :
       {std::numeric_limits<std::uint64_t>::max(), std::uint64_t{1} << 63, std::uint64_t{1} << 32, std::uint64_t{0}})
    for (std::size_t at = 4; at + 8 <= head; at += 3) {
      std::string broken = file;
      broken.replace(at, 8, test::le(number));
      survives(broken);
    }
}

}  // namespace
}  // namespace mamba2
