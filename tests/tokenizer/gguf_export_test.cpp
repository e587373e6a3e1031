#include "mamba2/tokenizer/gguf_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/gguf_tokenizer.h"
#include "tests/temporary_folder.h"
#include "tests/tokenizer/support.h"

namespace mamba2 {
namespace {

using testing::Case;
using testing::data_path;
using ::testing::HasSubstr;

constexpr const char* neox_file = "tokenizers/gpt-neox-20b.tokenizer.json";
constexpr const char* mistral_file = "tokenizers/mistral-v3.tokenizer.model";

std::string exported(const std::string& path, std::int64_t vocab_size) {
  GgufMetadataBuilder builder;
  add_gguf_tokenizer(builder, path, vocab_size);
  return builder.head(0);
}

GgufMetadata metadata_of(const std::string& bytes) {
  return {std::as_bytes(std::span(bytes)), "m.gguf"};
}

/// As a file made by a writer that knows the tokenizer.ggml keys alone.
std::string without_whole_json(const std::string& bytes) {
  const GgufMetadata metadata = metadata_of(bytes);
  GgufMetadataBuilder builder;
  for (const std::string& key : metadata.keys())
    if (key != "tokenizer.huggingface.json") builder.copy(metadata, key);
  return builder.head(0);
}

void expect_cases(const Tokenizer& tokenizer, const std::string& cases, std::size_t most_misses) {
  std::size_t misses = 0;
  for (const Case& one : testing::read_cases(data_path(cases))) {
    const bool agrees = tokenizer.encode(one.text, SpecialTokens::omit) == one.ids &&
                        tokenizer.decode(one.ids, SpecialTokens::include) == one.decoded;
    misses += agrees ? 0 : 1;
    if (most_misses == 0) {
      EXPECT_TRUE(agrees) << one.text;
    }
  }
  EXPECT_LE(misses, most_misses);
}

TEST(GgufExport, KeepsAByteLevelTokenizerWhole) {
  const std::string bytes = exported(data_path(neox_file), 50288);
  expect_cases(*Tokenizer::from_bytes(bytes, "m.gguf"), "golden/gpt-neox-20b.cases.jsonl", 0);
}

/// The keys that llama.cpp reads know no normalizer: what NFC changes comes out otherwise.
TEST(GgufExport, GivesLlamaCppsKeysThatAgreeOnAllTextThatNfcKeeps) {
  const std::string bytes = without_whole_json(exported(data_path(neox_file), 50288));
  const auto tokenizer = Tokenizer::from_bytes(bytes, "m.gguf");
  std::size_t compared = 0;
  for (const Case& one : testing::read_cases(data_path("golden/gpt-neox-20b.cases.jsonl"))) {
    if (one.decoded != one.text) continue;  // NFC changed it, or it holds invalid UTF-8
    ++compared;
    EXPECT_EQ(tokenizer->encode(one.text, SpecialTokens::omit), one.ids) << one.text;
    EXPECT_EQ(tokenizer->decode(one.ids, SpecialTokens::include), one.decoded);
  }
  EXPECT_GE(compared, 100U);
}

TEST(GgufExport, KeepsASentencePieceModel) {
  const std::string bytes = exported(data_path(mistral_file), 32768);
  const auto tokenizer = Tokenizer::from_bytes(bytes, "m.gguf");
  expect_cases(*tokenizer, "golden/mistral-v3.cases.jsonl", 0);
  EXPECT_EQ(tokenizer->bos_id(), testing::mistral().bos_id());
  EXPECT_EQ(tokenizer->eos_id(), testing::mistral().eos_id());
  EXPECT_EQ(tokenizer->unk_id(), testing::mistral().unk_id());
}

TEST(GgufExport, SaysWhatEachTokenIs) {
  const std::string bytes = exported(data_path(neox_file), 50288);
  const GgufMetadata metadata = metadata_of(bytes);
  EXPECT_EQ(metadata.text("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(metadata.text("tokenizer.ggml.pre"), "gpt-2");
  const auto texts = *metadata.texts("tokenizer.ggml.tokens");
  const auto types = *metadata.integers("tokenizer.ggml.token_type");
  ASSERT_EQ(texts.size(), 50288U);
  EXPECT_EQ(texts[0], "<|endoftext|>");
  EXPECT_EQ(types[0], GgufTokenType::control);
  EXPECT_EQ(types[100], GgufTokenType::normal);
  EXPECT_EQ(texts[50276], "  ");
  EXPECT_EQ(types[50276], GgufTokenType::user_defined);
  EXPECT_EQ(texts[50287], "[PAD50287]");
  EXPECT_EQ(types[50287], GgufTokenType::unused);
  EXPECT_EQ(metadata.flag("tokenizer.ggml.add_bos_token"), false);
}

TEST(GgufExport, CopiesTheKeysOfAnotherGgufFile) {
  const std::string bytes = exported(data_path(mistral_file), 32768);
  const test::TemporaryFolder folder;
  const std::string copied = exported(folder.write("copy.gguf", bytes), 32768);
  const GgufMetadata before = metadata_of(bytes), after = metadata_of(copied);
  ASSERT_EQ(after.keys(), before.keys());
  for (const std::string& key : before.keys()) EXPECT_EQ(after.encoded(key), before.encoded(key)) << key;
}

TEST(GgufExport, FillsAFolderThatSaysTheSame) {
  for (const auto& [file, cases, rows] : {std::tuple{neox_file, "golden/gpt-neox-20b.cases.jsonl", 50288},
                                          {mistral_file, "golden/mistral-v3.cases.jsonl", 32768}}) {
    const test::TemporaryFolder folder;
    const std::string bytes = exported(data_path(file), rows);
    for (const auto& [name, content] : gguf_tokenizer_files(metadata_of(bytes))) folder.write(name, content);
    expect_cases(*Tokenizer::from_pretrained(folder.path()), cases, 0);
  }
}

TEST(GgufExport, RefusesMoreTokensThanTheEmbeddingsHaveRows) {
  for (const char* file : {neox_file, mistral_file}) {
    try {
      exported(data_path(file), 1000);
      FAIL();
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("expected at most 1000, the rows of the embeddings"));
    }
  }
}

using Field = std::pair<std::string, std::string>;
class RefusedTokenizer : public ::testing::TestWithParam<Field> {};

/// A small byte-level tokenizer with one field replaced.
TEST_P(RefusedTokenizer, NamesTheFieldThatLlamaCppHasNoWordFor) {
  std::map<std::string, std::string> fields{
      {"pre_tokenizer", R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true})"},
      {"post_processor", "null"},
      {"model", R"({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []})"}};
  fields[GetParam().first] = GetParam().second;
  std::string json = R"({"version": "1.0", "added_tokens": [{"id": 2, "content": "<x>", "special": true}])";
  for (const auto& [name, value] : fields) json += ", \"" + name + "\": " + value;
  const test::TemporaryFolder folder;
  const std::string path = folder.write("tokenizer.json", json + "}");
  try {
    exported(path, 3);
    ADD_FAILURE() << "no Error was thrown";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr(path));
    EXPECT_THAT(e.what(), HasSubstr("llama.cpp"));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Fields, RefusedTokenizer,
    ::testing::Values(
        Field{"pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": false})"},
        Field{"pre_tokenizer", R"({"type": "ByteLevel", "add_prefix_space": true})"},
        Field{"pre_tokenizer", R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})"},
        Field{"model", R"({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [], "ignore_merges": true})"},
        Field{"model", R"({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [], "unk_token": "a"})"},
        Field{"post_processor", R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>",
            "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
            "special_tokens": {"<x>": {"id": "<x>", "ids": [2], "tokens": ["<x>"]}}})"}));

}  // namespace
}  // namespace mamba2
