#include "mamba2/base/error.h"

#include <gtest/gtest.h>

namespace mamba2 {
namespace {

TEST(Printable, KeepsTextAndEscapesWhatWouldBreakALine) {
  EXPECT_EQ(printable("plain ünïcode 漢"), "plain ünïcode 漢");
  EXPECT_EQ(printable("a\nb\x1b[0m\xff"), "a\\x0ab\\x1b[0m\\xff");
}

TEST(Printable, CutsAtAWholeCharacter) {
  EXPECT_EQ(printable("abcdef", 3), "abc...");
  EXPECT_EQ(printable("aé", 2), "a...");
  EXPECT_EQ(printable("éab", 3), "éa...");
  EXPECT_EQ(printable("\nab", 2), "\\x0a...");
  EXPECT_EQ(printable("abc", 3), "abc");
}

TEST(Require, ThrowsTheFormattedMessageOnlyWhenFalse) {
  require(true, "{}", 1);
  try {
    require(false, "{}: is {}, expected {}", "vocab_size", -1, 2);
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "vocab_size: is -1, expected 2");
  }
}

}  // namespace
}  // namespace mamba2
