#include "mamba2/hub/digest.h"

#include <gtest/gtest.h>

namespace mamba2 {
namespace {

std::string hash_of(std::string_view content, std::size_t digits) {
  Digest digest(std::string(digits, '0'), content.size());
  for (const char& c : content) digest.update({&c, 1});
  return digest.finish();
}

TEST(DigestTest, LargeFilesHaveTheirSha256) {  // FIPS 180-2, appendix B.1
  EXPECT_EQ(hash_of("abc", 64), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(DigestTest, SmallFilesHaveTheHashThatGitGivesThem) {  // printf 'hello\n' | git hash-object --stdin
  EXPECT_EQ(hash_of("hello\n", 40), "ce013625030ba8dba906f756967f9e9ca394464a");
  EXPECT_EQ(hash_of("", 40), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
}

TEST(DigestTest, OnlyHexadecimalOfTheRightLengthIsAHash) {
  EXPECT_TRUE(is_file_hash(std::string(40, 'a')));
  EXPECT_TRUE(is_file_hash(std::string(64, '0')));
  EXPECT_FALSE(is_file_hash(std::string(32, 'a')));
  EXPECT_FALSE(is_file_hash(std::string(40, 'A')));
  EXPECT_FALSE(is_file_hash(std::string(39, 'a') + "/"));
}

}  // namespace
}  // namespace mamba2
