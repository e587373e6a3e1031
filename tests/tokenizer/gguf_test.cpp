#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/base/gguf_metadata.h"
#include "mamba2/tokenizer/tokenizer.h"

namespace mamba2 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <class T>
std::string le(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

std::string text(const std::string& value) {
  return le<std::uint64_t>(value.size()) + value;
}

/// Builds a GGUF file that holds nothing but metadata.
class File {
 public:
  File& add(const std::string& key, const std::string& value) {
    return entry("tokenizer.ggml." + key, GgufType::string, text(value));
  }
  File& add(const std::string& key, std::uint32_t value) {
    return entry("tokenizer.ggml." + key, GgufType::u32, le(value));
  }
  File& add(const std::string& key, bool value) {
    return entry("tokenizer.ggml." + key, GgufType::boolean, std::string(1, value ? '\1' : '\0'));
  }
  File& add(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes = le(static_cast<std::uint32_t>(GgufType::string)) + le<std::uint64_t>(values.size());
    for (const std::string& value : values) bytes += text(value);
    return entry("tokenizer.ggml." + key, GgufType::array, bytes);
  }
  template <class T>
  File& add(const std::string& key, GgufType type, const std::vector<T>& values) {
    std::string bytes = le(static_cast<std::uint32_t>(type)) + le<std::uint64_t>(values.size());
    for (const T value : values) bytes += le(value);
    return entry("tokenizer.ggml." + key, GgufType::array, bytes);
  }
  File& entry(const std::string& key, GgufType type, const std::string& value) {
    entries_ += text(key) + le(static_cast<std::uint32_t>(type)) + value;
    ++count_;
    return *this;
  }
  std::unique_ptr<const Tokenizer> open() const {
    return Tokenizer::from_bytes("GGUF" + le(3U) + le<std::uint64_t>(0) + le(count_) + entries_, "m.gguf");
  }
  std::string error() const {
    try {
      open();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

 private:
  std::string entries_;
  std::uint64_t count_ = 0;
};

File byte_level() {
  File file;
  file.add("model", std::string("gpt2"))
      .add("pre", std::string("gpt-2"))
      .add("tokens", std::vector<std::string>{"a", "b", "\u0120", "ab", "<end>"})
      .add("token_type", GgufType::i32, std::vector<std::int32_t>{1, 1, 1, 1, 3})
      .add("merges", std::vector<std::string>{"a b"})
      .add("eos_token_id", std::uint32_t{4});
  return file;
}

File sentencepiece() {
  File file;
  file.add("model", std::string("llama"))
      .add("tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab"})
      .add("scores", GgufType::f32, std::vector<float>{0, 0, 0, -3, -4, -5, -1})
      .add("token_type", GgufType::i32, std::vector<std::int32_t>{2, 3, 3, 1, 1, 1, 1})
      .add("unknown_token_id", std::uint32_t{0})
      .add("bos_token_id", std::uint32_t{1})
      .add("eos_token_id", std::uint32_t{2});
  return file;
}

TEST(GgufTokenizer, OfKindGpt2IsByteLevelBpe) {
  const auto tokenizer = byte_level().open();
  EXPECT_THAT(tokenizer->encode("ab b<end>", SpecialTokens::include), ElementsAre(3, 2, 1, 4));
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{3, 2, 1, 4}, SpecialTokens::omit), "ab b");
  EXPECT_EQ(tokenizer->eos_id(), 4);
  EXPECT_FALSE(tokenizer->bos_id().has_value());
}

TEST(GgufTokenizer, OfKindLlamaIsSentencePiece) {
  const auto tokenizer = sentencepiece().open();
  EXPECT_THAT(tokenizer->encode("ab", SpecialTokens::omit), ElementsAre(3, 6));
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{3, 6}, SpecialTokens::omit), "ab");
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
}

TEST(GgufTokenizer, AddsTheFirstTokenThatTheFileAsksFor) {
  EXPECT_THAT(sentencepiece().add("add_bos_token", true).open()->encode("ab", SpecialTokens::include),
              ElementsAre(1, 3, 6));
  EXPECT_THAT(sentencepiece().add("add_bos_token", false).open()->encode("ab", SpecialTokens::include),
              ElementsAre(3, 6));
}

TEST(GgufTokenizer, PutsNoSpaceBeforeTheTextWhereTheFileSaysSo) {
  EXPECT_THAT(sentencepiece().add("add_space_prefix", false).open()->encode("ab", SpecialTokens::omit), ElementsAre(6));
}

TEST(GgufTokenizer, NamesWhatIsMissingOrWrong) {
  EXPECT_THAT(File().error(), HasSubstr("m.gguf: holds no tokenizer"));
  EXPECT_THAT(File().add("model", std::string("bert")).error(), HasSubstr("'bert' is not supported"));
  EXPECT_THAT(File().add("model", std::string("gpt2")).error(), HasSubstr("'tokenizer.ggml.tokens' is missing"));
  EXPECT_THAT(File().add("model", std::string("gpt2")).add("pre", std::string("qwen2")).error(),
              HasSubstr("tokenizer.ggml.pre 'qwen2' is not supported"));
  const std::vector<std::string> one{"a"};
  EXPECT_THAT(File().add("model", std::string("gpt2")).add("tokens", one).error(), HasSubstr("merges' is missing"));
  EXPECT_THAT(File().add("model", std::string("llama")).add("tokens", one).error(), HasSubstr("scores' is missing"));
  EXPECT_THAT(File()
                  .add("model", std::string("gpt2"))
                  .add("tokens", one)
                  .add("token_type", GgufType::i32, std::vector<std::int32_t>{1, 1})
                  .error(),
              HasSubstr("'tokenizer.ggml.token_type' has 2 elements, expected 1"));
  EXPECT_THAT(byte_level().add("bos_token_id", std::uint32_t{5}).error(), HasSubstr("expected an index below 5"));
}

}  // namespace
}  // namespace mamba2
