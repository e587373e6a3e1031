#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "tests/temporary_folder.h"
#include "tests/tokenizer/support.h"

namespace mamba2 {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

json small_file() {
  return json::parse(R"({
    "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
    "decoder": null,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<unk>": 3}, "merges": ["a b"], "unk_token": "<unk>"}
  })");
}

/// The error that reading bytes gives; "" where there is none.
std::string error_of(const std::string& bytes) {
  try {
    const auto tokenizer = Tokenizer::from_bytes(bytes, "some.json");
    (void)tokenizer->encode("ab a\tb", SpecialTokens::include);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

std::string error_with(const std::string& pointer, const json& value) {
  json file = small_file();
  file[json::json_pointer(pointer)] = value;
  return error_of(file.dump());
}

struct BadField {
  const char* pointer;
  const char* value;
  const char* names;  ///< what the message must say beside the file's name
};

class BadFields : public ::testing::TestWithParam<BadField> {};

TEST_P(BadFields, AreErrorsThatNameFileAndField) {
  const auto& [pointer, value, names] = GetParam();
  EXPECT_THAT(error_with(pointer, json::parse(value)), AllOf(StartsWith("some.json: "), HasSubstr(names)));
}

INSTANTIATE_TEST_SUITE_P(
    TokenizerJson, BadFields,
    ::testing::Values(
        BadField{"/version", "\"2.0\"", "version"}, BadField{"/model/type", "\"WordPiece\"", "model.type: 'WordPiece'"},
        BadField{"/model", "[]", "model"}, BadField{"/model/vocab", "5", "model.vocab"},
        BadField{"/model/vocab", R"({"a": -1})", "-1"},
        BadField{"/model/vocab", R"({"a": 9223372036854775807})", "'a'"},
        BadField{"/model/vocab", R"({"a": 18446744073709551615})", "'a'"},
        BadField{"/model/vocab", R"({"a": 1.5})", "model.vocab"},
        BadField{"/model/vocab", R"({"a": {}})", "model.vocab"},
        BadField{"/model/vocab", R"({"a": 1, "b": 1})", "id 1 is that of 'a' and of 'b'"},
        BadField{"/model/vocab", R"([["a", 0.0]])", "model.vocab"}, BadField{"/model/merges", "[\"a\"]", "entry 0"},
        BadField{"/model/merges", "[\"a b c\"]", "entry 0"}, BadField{"/model/merges", "[[\"a\"]]", "entry 0"},
        BadField{"/model/merges", "[[\"a\", \"b\", \"ab\"]]", "length than 2"},
        BadField{"/model/merges", "[7]", "entry 0"},
        BadField{"/model/merges", "[\"a x\"]", "'x', which is not in model.vocab"},
        BadField{"/model/merges", "[\"b a\"]", "'ba', which is not in model.vocab"},
        BadField{"/model/merges", "null", "model.merges"}, BadField{"/model/dropout", "0.1", "model.dropout"},
        BadField{"/model/fuse_unk", "3", "model.fuse_unk"},
        BadField{"/normalizer", R"({"type": "BertNormalizer"})", "normalizer: type 'BertNormalizer'"},
        BadField{"/normalizer", R"({"type": "Precompiled", "precompiled_charsmap": ""})", "'Precompiled'"},
        BadField{"/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "X"}]})", "normalizer.normalizers[0]"},
        BadField{"/normalizer", R"({"type": "Replace", "pattern": {"String": ""}, "content": "x"})", "pattern.String"},
        BadField{"/normalizer", R"({"type": "Replace", "pattern": {"Regex": "(a"}, "content": "x"})", "(a"},
        BadField{"/normalizer", R"({"type": "Strip"})", "normalizer.strip_left"},
        BadField{"/pre_tokenizer", R"({"type": "BertPreTokenizer"})", "'BertPreTokenizer'"},
        BadField{"/pre_tokenizer", R"({"type": "ByteLevel"})", "pre_tokenizer.add_prefix_space"},
        BadField{"/pre_tokenizer", R"({"type": "Split", "pattern": {"String": "x"}, "behavior": "Odd"})", "Odd"},
        BadField{"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})", "pre_tokenizer.replacement"},
        BadField{"/pre_tokenizer", R"({"type": 3})", "pre_tokenizer.type"},
        BadField{"/post_processor", R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "q"}}]})",
                 "q"},
        BadField{"/post_processor", R"({"type": "TemplateProcessing", "single": []})", "post_processor.single"},
        BadField{"/decoder", R"({"type": "CTC"})", "decoder: type 'CTC'"},
        BadField{"/decoder", R"({"type": "Strip", "content": "x", "start": -1, "stop": 0})", "decoder.start"},
        BadField{"/added_tokens", R"([{"id": -1, "content": "x"}])", "added_tokens[0].id"},
        BadField{"/added_tokens", R"([{"id": 4294967296, "content": "x"}])", "added_tokens[0].id"},
        BadField{"/added_tokens", R"([{"id": 1, "content": 7}])", "added_tokens[0].content"}));

TEST(TokenizerJson, WithNothingWrongLoads) {
  EXPECT_EQ(error_of(small_file().dump()), "");
}

TEST(TokenizerJson, CutAnywhereIsAnError) {
  const std::string whole = small_file().dump();
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_THAT(error_of(whole.substr(0, size)), StartsWith("some.json: ")) << size;
}

TEST(TokenizerJson, NestedAHundredThousandDeepIsAnError) {
  EXPECT_THAT(error_of("{\"x\":" + std::string(100'000, '[')), HasSubstr("nested deeper"));
}

TEST(TokenizerJson, WithARepeatedKeyOrTokenIsAnError) {
  EXPECT_THAT(error_of(R"({"model": {}, "model": {}})"), HasSubstr("duplicate key 'model'"));
  EXPECT_THAT(error_of(R"({"model": {"vocab": {"a": 0, "a": 1}}})"), HasSubstr("'a' is there twice"));
}

TEST(TokenizerJson, MayHaveHolesBetweenItsIds) {
  json file = small_file();
  file["model"]["vocab"] = {{"a", 5}, {"b", 900}, {"ab", 70}, {"<unk>", 2}};
  const auto tokenizer = Tokenizer::from_bytes(file.dump(), "some.json");
  EXPECT_EQ(tokenizer->vocab_size(), 901);
  EXPECT_EQ(tokenizer->encode("abb", SpecialTokens::omit), (std::vector<std::int32_t>{70, 900}));
  EXPECT_EQ(tokenizer->id_to_token(6), std::nullopt);
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{70, 6, 900}, SpecialTokens::include), "ab b");
}

TEST(TokenizerJson, WithMergesThatLeadBackToThemselvesEncodesInTheEnd) {
  json file = small_file();
  file["model"] = json::parse(R"({"type": "BPE", "vocab": {"a": 0, "aa": 1, "aaa": 2, "aaaa": 3},
    "merges": [["a", "aaa"], ["aaa", "a"], ["aa", "aa"], ["a", "aa"], ["aa", "a"], ["a", "a"], ["a", "a"]]})");
  const auto tokenizer = Tokenizer::from_bytes(file.dump(), "some.json");
  EXPECT_EQ(tokenizer->encode("aaaaa", SpecialTokens::omit), (std::vector<std::int32_t>{3, 0}));
}

TEST(TokenizerJson, WhosePatternBacktracksWithoutEndIsAnErrorWhenItRuns) {
  json file = small_file();
  file["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "^(a|aa)+$"}}}, {"behavior", "Isolated"}, {"invert", false}};
  const auto tokenizer = Tokenizer::from_bytes(file.dump(), "some.json");
  EXPECT_THROW((void)tokenizer->encode(std::string(5000, 'a') + "b", SpecialTokens::omit), Error);
}

TEST(TokenizerJson, WhoseNormalizerBlowsTextsUpIsAnErrorWhenItRuns) {
  json file = small_file();
  json step = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(100, 'a')}};
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::vector<json>(20, step)}};
  const auto tokenizer = Tokenizer::from_bytes(file.dump(), "some.json");
  EXPECT_THROW((void)tokenizer->encode("a", SpecialTokens::omit), Error);
}

TEST(SentencePieceModel, CutAnywhereIsAnErrorOrAWholeModel) {
  const std::string whole = read_file(testing::data_path("tokenizers/mistral-v3.tokenizer.model"));
  const auto is_fine = [](const std::string& error) { return error.empty() || error.starts_with("some.json: "); };
  for (std::size_t size = 0; size < 400; ++size) EXPECT_TRUE(is_fine(error_of(whole.substr(0, size)))) << size;
  std::mt19937 random(3);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(is_fine(error_of(whole.substr(0, random() % whole.size()))));
}

TEST(SentencePieceModel, WithAnyBitOfItsStartOrEndFlippedIsReadOrRefused) {
  const std::string whole = read_file(testing::data_path("tokenizers/mistral-v3.tokenizer.model"));
  // The normalizer and trainer settings lie behind the pieces.
  std::string small = whole.substr(0, 600);
  for (std::size_t bit = 0; bit < small.size() * 8; ++bit) {
    std::string flipped = small;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    (void)error_of(flipped);
  }
  std::mt19937 random(4);
  for (int i = 0; i < 30; ++i) {
    std::string flipped = whole;
    const std::size_t at = whole.size() - 1 - random() % 2000;
    flipped[at] = static_cast<char>(flipped[at] ^ (1 << random() % 8));
    (void)error_of(flipped);
  }
}

TEST(SentencePieceModel, WithALengthNearTwoToTheSixtyThreeIsAnError) {
  EXPECT_THAT(error_of("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F"), HasSubstr("ends inside a field"));
  EXPECT_THAT(error_of("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"), HasSubstr("more than 64 bits"));
}

TEST(FromPretrained, ListsWhatItLookedForWhereAFolderHoldsNoTokenizer) {
  const test::TemporaryFolder folder;
  try {
    (void)Tokenizer::from_pretrained(folder.path());
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr(folder.path()), HasSubstr("tokenizer.json"), HasSubstr("tokenizer.model.v3"),
                                HasSubstr("--tokenizer")));
  }
}

}  // namespace
}  // namespace mamba2
