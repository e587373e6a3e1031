#include "mamba2/tokenizer/unicode.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "mamba2/tokenizer/byte_level.h"
#include "mamba2/tokenizer/regex.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

std::string random_text(std::mt19937& random) {
  const std::vector<std::string> parts = {"a",  "Z",      "é",      "ß", "日",     "א",    " ", "  ",     "\n",
                                          "\t", "\u00A0", "\u3000", "1", "٣",      "½",    "'", "'s",     "'ll",
                                          "'t", "'re",    "!",      "…", "\u0301", "🙂", "_", "\u200D", "\r\n"};
  std::string text;
  for (std::size_t i = random() % 12; i > 0; --i) text += parts[random() % parts.size()];
  return text;
}

TEST(Gpt2Split, FindsThePiecesThatItsPatternFinds) {
  const Regex pattern(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
  std::mt19937 random(5);
  for (int i = 0; i < 20'000; ++i) {
    const std::string text = random_text(random);
    std::vector<std::size_t> by_hand, by_pattern;
    split_gpt2(text, [&](std::size_t, std::size_t end) { by_hand.push_back(end); });
    pattern.for_each_match(text, [&](std::size_t, std::size_t end) { by_pattern.push_back(end); });
    ASSERT_EQ(by_hand, by_pattern) << text;
  }
}

TEST(ByteLevel, WritesEveryByteAsACharacterOfItsOwn) {
  const auto& characters = byte_level_characters();
  for (int byte = 0; byte < 256; ++byte)
    EXPECT_EQ(byte_of_byte_level_character(decode_valid_utf8(characters[static_cast<std::size_t>(byte)], 0).value),
              byte);
  EXPECT_EQ(byte_of_byte_level_character(U'日'), -1);
}

TEST(Normalize, ComposesAndDecomposes) {
  EXPECT_EQ(normalize("e\u0301a\u0316\u0301", NormalForm::nfc), "é\u00E1\u0316");
  EXPECT_EQ(normalize("é한", NormalForm::nfd), "e\u0301\u1112\u1161\u11AB");
  EXPECT_EQ(normalize("ﬁ①", NormalForm::nfkc), "fi1");
  EXPECT_EQ(normalize("Å", NormalForm::nfkd), "A\u030A");
}

TEST(Normalize, LeavesCharactersThatItsVersionOfUnicodeDoesNotKnow) {
  EXPECT_EQ(normalize("\u0301\u0EBA", NormalForm::nfc), "\u0301\u0EBA");  // a mark of class 9 since Unicode 12
}

TEST(Utf8, ReplacesEachMaximalSubpart) {
  EXPECT_EQ(to_valid_utf8("\xF0\x9F\x99"), replacement_character);
  EXPECT_EQ(to_valid_utf8("\xE2\x82\xF0"), std::string(replacement_character) + std::string(replacement_character));
  EXPECT_EQ(to_valid_utf8("a\xC3\xA9"), "aé");
}

TEST(Utf8Assembler, GivesWhatTheWholeTextWouldBe) {
  std::mt19937 random(6);
  const std::string bytes("\x00\x41\x80\xBF\xC2\xC3\xA9\xE0\xA0\xE2\x82\xAC\xED\xF0\x9F\x99\x82\xF4\x8F\xFF", 20);
  for (int i = 0; i < 20'000; ++i) {
    std::string text;
    for (std::size_t k = random() % 12; k > 0; --k) text += bytes[random() % bytes.size()];
    Utf8Assembler assembler;
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = 1 + random() % 3;
      assembler.push(std::string_view(text).substr(at, size), out);
      at += size;
    }
    assembler.finish(out);
    ASSERT_EQ(out, to_valid_utf8(text));
  }
}

}  // namespace
}  // namespace mamba2
