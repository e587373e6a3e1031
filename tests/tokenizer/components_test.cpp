#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "tests/tokenizer/support.h"

namespace mamba2 {
namespace {

using testing::Case;

/// Small tokenizers that between them use every component, with cases by Hugging Face tokenizers and SentencePiece:
/// NAME.json or NAME.model and NAME.cases.jsonl.
std::vector<std::string> component_files() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(testing::data_path("tokenizers/components")))
    if (entry.path().extension() != ".jsonl") names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

class EveryComponentFile : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::filesystem::path path = testing::data_path("tokenizers/components/" + GetParam());
    tokenizer_ = Tokenizer::from_file(path.string());
    cases_ = testing::read_cases(path.parent_path() / (path.stem().string() + ".cases.jsonl"));
  }

  std::unique_ptr<const Tokenizer> tokenizer_;
  std::vector<Case> cases_;
};

TEST_P(EveryComponentFile, EncodesToTheKnownIds) {
  for (const Case& one : cases_) EXPECT_EQ(tokenizer_->encode(one.text, SpecialTokens::omit), one.ids) << one.text;
}

TEST_P(EveryComponentFile, DecodesToTheKnownText) {
  for (const Case& one : cases_) EXPECT_EQ(tokenizer_->decode(one.ids, SpecialTokens::include), one.decoded);
}

TEST_P(EveryComponentFile, StreamsToTheKnownText) {
  for (const Case& one : cases_) EXPECT_EQ(testing::stream(*tokenizer_, one.ids, SpecialTokens::include), one.decoded);
}

INSTANTIATE_TEST_SUITE_P(Components, EveryComponentFile, ::testing::ValuesIn(component_files()), [](const auto& file) {
  std::string name = file.param.substr(0, file.param.find('.'));
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-'; }, '_');
  return name;
});

}  // namespace
}  // namespace mamba2
