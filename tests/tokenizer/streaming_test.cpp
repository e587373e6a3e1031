#include <gtest/gtest.h>

#include <random>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/utf8.h"
#include "tests/tokenizer/support.h"

namespace mamba2 {
namespace {

using testing::stream;

class EveryTokenizer : public ::testing::TestWithParam<std::string> {
 protected:
  const Tokenizer& tokenizer() const {
    if (GetParam() == "gpt_neox") return testing::gpt_neox();
    return GetParam() == "classics" ? testing::classics() : testing::mistral();
  }

  /// Ids of one-character tokens: for byte-level vocabularies those are bytes, so most lists split characters.
  std::vector<std::int32_t> short_tokens() const {
    std::vector<std::int32_t> ids;
    for (std::int32_t id = 0; id < tokenizer().vocab_size(); ++id) {
      const auto token = tokenizer().id_to_token(id);
      if (token && (token->size() <= 2 || token->starts_with("<0x"))) ids.push_back(id);
    }
    return ids;
  }

  std::vector<std::int32_t> random_ids(std::mt19937& random, const std::vector<std::int32_t>& from) const {
    std::vector<std::int32_t> ids(random() % 24);
    for (auto& id : ids) id = from[random() % from.size()];
    return ids;
  }
};

TEST_P(EveryTokenizer, StreamsWhatItDecodesForIdsThatSplitCharacters) {
  std::mt19937 random(1);
  const auto from = short_tokens();
  for (int i = 0; i < 2000; ++i) {
    const auto ids = random_ids(random, from);
    EXPECT_EQ(stream(tokenizer(), ids, SpecialTokens::include), tokenizer().decode(ids, SpecialTokens::include));
  }
}

TEST_P(EveryTokenizer, DecodesAnyIdsToValidUtf8) {
  std::mt19937 random(2);
  std::vector<std::int32_t> all(static_cast<std::size_t>(tokenizer().vocab_size()));
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int32_t>(i);
  for (int i = 0; i < 2000; ++i)
    EXPECT_TRUE(is_valid_utf8(tokenizer().decode(random_ids(random, all), SpecialTokens::include)));
}

TEST_P(EveryTokenizer, GivesBackAnyTextItEncodes) {
  for (const std::string text :
       {"Hello, world!", "naïve café — 日本語 🙂", "a\n\n  b\t", "'ll 've x'd 12 3.5"})
    EXPECT_EQ(tokenizer().decode(tokenizer().encode(text, SpecialTokens::omit), SpecialTokens::include), text);
}

TEST_P(EveryTokenizer, NamesAnIdOutOfRangeAndTheSizeOfTheVocabulary) {
  const auto size = static_cast<std::int32_t>(tokenizer().vocab_size());
  for (const std::int32_t id : {-1, size, std::numeric_limits<std::int32_t>::max()}) {
    try {
      (void)tokenizer().decode(std::vector<std::int32_t>{id}, SpecialTokens::include);
      FAIL() << "no error for " << id;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(std::to_string(id)), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find(std::to_string(size)), std::string::npos) << e.what();
    }
  }
}

TEST_P(EveryTokenizer, ReadsInvalidUtf8AsItsReplacement) {
  // One U+FFFD for each maximal subpart: E2 82 is one, F0 9F 99 is one, C0 and 80 are one each.
  const std::string invalid = "a\xE2\x82z\xF0\x9F\x99 \xC0\x80 \xED\xA0\x80!\xFF";
  const std::string fffd(replacement_character);
  const std::string valid = "a" + fffd + "z" + fffd + " " + fffd + fffd + " " + fffd + fffd + fffd + "!" + fffd;
  EXPECT_EQ(tokenizer().encode(invalid, SpecialTokens::omit), tokenizer().encode(valid, SpecialTokens::omit));
}

TEST_P(EveryTokenizer, FindsEveryTokenByItsText) {
  for (std::int32_t id = 0; id < tokenizer().vocab_size(); ++id) {
    const auto token = tokenizer().id_to_token(id);
    ASSERT_TRUE(token.has_value()) << id;
    const auto found = tokenizer().token_to_id(*token);
    ASSERT_TRUE(found.has_value()) << *token;
    EXPECT_EQ(tokenizer().id_to_token(*found), *token);
  }
}

/// Quadratic encoding of these would take minutes to hours.
TEST_P(EveryTokenizer, EncodesAMegabyteOfOneCharacter) {
  for (const char* character : {"e", " ", "\n", "=", "é", "\xCC\x81"}) {
    std::string text;
    while (text.size() < (1U << 20)) text += character;
    const auto ids = tokenizer().encode(text, SpecialTokens::omit);
    EXPECT_EQ(tokenizer().decode(ids, SpecialTokens::include), text);
  }
}

TEST(Unicode, OrdersAMegabyteOfMarksInTheTimeOfASort) {
  std::string text = "a";
  while (text.size() < (1U << 20)) text += "\xCC\x81\xCC\x96";  // classes 230 and 220, in turn
  const auto ids = testing::gpt_neox().encode(text, SpecialTokens::omit);
  EXPECT_EQ(testing::gpt_neox().decode(ids, SpecialTokens::include).substr(0, 3), "\xC3\xA1\xCC");
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, EveryTokenizer, ::testing::Values("gpt_neox", "classics", "mistral"));

TEST(StreamingDecoder, KeepsBackACharacterUntilItIsWhole) {
  const auto& tokenizer = testing::gpt_neox();
  const auto ids = tokenizer.encode("🙂", SpecialTokens::omit);
  ASSERT_GT(ids.size(), 1U);
  StreamingDecoder decoder(tokenizer, SpecialTokens::include);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(decoder.push(ids[i]), "");
  EXPECT_EQ(decoder.push(ids.back()), "🙂");
}

TEST(StreamingDecoder, ReplacesACharacterThatNeverBecomesWhole) {
  const auto& tokenizer = testing::gpt_neox();
  const auto ids = tokenizer.encode("🙂", SpecialTokens::omit);
  StreamingDecoder decoder(tokenizer, SpecialTokens::include);
  EXPECT_EQ(decoder.push(ids.front()), "");
  EXPECT_EQ(decoder.finish(), replacement_character);
}

TEST(StreamingDecoder, GivesOutEveryWordAtOnce) {
  const auto& tokenizer = testing::mistral();
  StreamingDecoder decoder(tokenizer, SpecialTokens::include);
  std::vector<std::string> parts;
  for (const std::int32_t id : tokenizer.encode("It was dark", SpecialTokens::include))
    parts.push_back(decoder.push(id));
  EXPECT_EQ(parts, (std::vector<std::string>{"", "It", " was", " dark"}));
}

}  // namespace
}  // namespace mamba2
