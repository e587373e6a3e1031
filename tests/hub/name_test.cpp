#include "mamba2/hub/name.h"

#include <gtest/gtest.h>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

TEST(HubNameTest, NamesOfModelsAreRecognised) {
  for (const char* name : {"state-spaces/mamba2-130m", "mistralai/Mamba-Codestral-7B-v0.1", "a/b", "A_1/x.y-z_",
                           "o/n@main", "o/n@refs/pr/1", "o/n@v1.0", "o/n@0123456789abcdef0123456789abcdef01234567"})
    EXPECT_TRUE(looks_like_hub_name(name)) << name;
}

TEST(HubNameTest, PathsAndForbiddenNamesAreNot) {
  for (const char* name : {"",       "a",        "/a",         "a/",     "a/b/c",         "./a",        "../a",
                           "a/..",   "~/a",      "a/-b",       "a/b-",   "a/.b",          "a/b.",       "a/b--c",
                           "a/b..c", "a/b.git",  "a b/c",      "a/b\n",  "a/caf\xc3\xa9", "a/b@",       "a/b@../x",
                           "a/b@/x", "a/b@x/",   "a/b@x//y",   "a/b@.x", "a/b@x y",       "a/b@x.lock", "a/b@a@b",
                           "a/b@-x", "a/b@\x01", "https://a/b"})
    EXPECT_FALSE(looks_like_hub_name(name)) << name;
}

TEST(HubNameTest, APartHasUpTo96Characters) {
  EXPECT_TRUE(looks_like_hub_name(std::string(96, 'a') + "/" + std::string(96, 'b')));
  EXPECT_FALSE(looks_like_hub_name(std::string(97, 'a') + "/b"));
  EXPECT_FALSE(looks_like_hub_name("a/" + std::string(97, 'b')));
}

TEST(HubNameTest, TheRevisionIsMainUnlessGiven) {
  EXPECT_EQ(parse_hub_name("a/b").model, "a/b");
  EXPECT_EQ(parse_hub_name("a/b").revision, "main");
  EXPECT_EQ(parse_hub_name("a/b@refs/pr/1").model, "a/b");
  EXPECT_EQ(parse_hub_name("a/b@refs/pr/1").revision, "refs/pr/1");
  EXPECT_THROW(parse_hub_name("nothing"), Error);
}

TEST(HubNameTest, FileNamesThatLeaveTheirFolderAreUnsafe) {
  for (const char* name : {"config.json", "a/b.json", "a..b", "...", ".gitattributes"})
    EXPECT_TRUE(is_safe_file_name(name)) << name;
  for (const char* name : {"", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./a", "a//b", "a/", "a\\..\\b", "a\nb"})
    EXPECT_FALSE(is_safe_file_name(name)) << name;
  EXPECT_FALSE(is_safe_file_name(std::string(256, 'a')));
}

}  // namespace
}  // namespace mamba2
