#include <gtest/gtest.h>

#include <thread>

#include "tests/temporary_folder.h"
#include "tests/tokenizer/support.h"

namespace mamba2 {
namespace {

using test::TemporaryFolder;

const std::string mistral_model = testing::data_path("tokenizers/mistral-v3.tokenizer.model");
const std::string gpt_neox_json = testing::data_path("tokenizers/gpt-neox-20b.tokenizer.json");

TEST(FromPretrained, ReadsTheSpecialTokensOfTheShippedModel) {
  EXPECT_EQ(testing::classics().bos_id(), 0);
  EXPECT_EQ(testing::classics().eos_id(), 0);
  EXPECT_EQ(testing::classics().pad_id(), 1);
  EXPECT_EQ(testing::classics().vocab_size(), 8192);
}

TEST(FromPretrained, FindsASentencePieceModelByEitherName) {
  for (const char* name : {"tokenizer.model", "tokenizer.model.v3"}) {
    const TemporaryFolder folder;
    folder.copy(mistral_model, name);
    const auto tokenizer = Tokenizer::from_pretrained(folder.path());
    EXPECT_EQ(tokenizer->vocab_size(), 32768);
    EXPECT_EQ(tokenizer->bos_id(), 1);
    EXPECT_EQ(tokenizer->eos_id(), 2);
    EXPECT_EQ(tokenizer->unk_id(), 0);
  }
}

TEST(FromPretrained, PutsTheFirstTokenOfASentencePieceModelInFrontUnlessToldNotTo) {
  const TemporaryFolder folder;
  folder.copy(mistral_model, "tokenizer.model");
  const auto with = Tokenizer::from_pretrained(folder.path())->encode("Hi", SpecialTokens::include);
  folder.write("tokenizer_config.json", R"({"add_bos_token": false, "add_eos_token": true})");
  auto without = Tokenizer::from_pretrained(folder.path())->encode("Hi", SpecialTokens::include);
  EXPECT_EQ(with.front(), 1);
  EXPECT_EQ(without.back(), 2);
  without.pop_back();
  EXPECT_EQ(without, std::vector<std::int32_t>(with.begin() + 1, with.end()));
}

TEST(FromPretrained, TakesTokenNamesAsTextsAndAsObjects) {
  const TemporaryFolder folder;
  folder.copy(gpt_neox_json, "tokenizer.json");
  folder.write("tokenizer_config.json", R"({"eos_token": {"content": "<|endoftext|>", "special": true}})");
  folder.write("special_tokens_map.json", R"({"eos_token": "<|im_end|>", "pad_token": "<|padding|>"})");
  const auto tokenizer = Tokenizer::from_pretrained(folder.path());
  EXPECT_EQ(tokenizer->eos_id(), 0);
  EXPECT_EQ(tokenizer->pad_id(), 1);
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
}

TEST(FromPretrained, CleansUpSpacesWhereTheConfigSaysSo) {
  const TemporaryFolder folder;
  folder.copy(gpt_neox_json, "tokenizer.json");
  folder.write("tokenizer_config.json", R"({"clean_up_tokenization_spaces": true})");
  const auto tokenizer = Tokenizer::from_pretrained(folder.path());
  const auto ids = tokenizer->encode("He did n't say , \" why ? \" . It 's", SpecialTokens::omit);
  EXPECT_EQ(tokenizer->decode(ids, SpecialTokens::include), "He didn't say, \" why? \". It's");
  EXPECT_EQ(testing::stream(*tokenizer, ids, SpecialTokens::include), "He didn't say, \" why? \". It's");
}

TEST(Decode, LeavesSpecialTokensOutWhereAsked) {
  const auto ids = testing::gpt_neox().encode("a<|endoftext|>b", SpecialTokens::omit);
  EXPECT_EQ(testing::gpt_neox().decode(ids, SpecialTokens::include), "a<|endoftext|>b");
  EXPECT_EQ(testing::gpt_neox().decode(ids, SpecialTokens::omit), "ab");
}

TEST(Tokenizer, ServesManyThreads) {
  const std::string text = "It was a dark night, and the wind howled round the house.";
  const auto expected = testing::gpt_neox().encode(text, SpecialTokens::omit);
  std::vector<std::thread> threads;
  std::vector<int> equal(4, 0);
  for (int& count : equal)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) count += testing::gpt_neox().encode(text, SpecialTokens::omit) == expected ? 1 : 0;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(equal, std::vector<int>(4, 50));
}

}  // namespace
}  // namespace mamba2
