#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "tests/tokenizer/support.h"

namespace mamba2 {
namespace {

using testing::Case;

struct Golden {
  const char* cases;
  const Tokenizer& (*tokenizer)();
};

class GoldenCases : public ::testing::TestWithParam<Golden> {
 protected:
  const Tokenizer& tokenizer() const { return GetParam().tokenizer(); }
  std::vector<Case> cases() const { return testing::read_cases(testing::data_path(GetParam().cases)); }
};

TEST_P(GoldenCases, EncodeToTheKnownIds) {
  for (const Case& one : cases()) EXPECT_EQ(tokenizer().encode(one.text, SpecialTokens::omit), one.ids) << one.text;
}

TEST_P(GoldenCases, DecodeToTheKnownText) {
  for (const Case& one : cases()) EXPECT_EQ(tokenizer().decode(one.ids, SpecialTokens::include), one.decoded);
}

TEST_P(GoldenCases, StreamToTheKnownText) {
  for (const Case& one : cases()) EXPECT_EQ(testing::stream(tokenizer(), one.ids, SpecialTokens::include), one.decoded);
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, GoldenCases,
                         ::testing::Values(Golden{"golden/gpt-neox-20b.cases.jsonl", testing::gpt_neox},
                                           Golden{"golden/classics.cases.jsonl", testing::classics},
                                           Golden{"golden/mistral-v3.cases.jsonl", testing::mistral}));

TEST(GptNeox, EncodesTheListedSentences) {
  std::ifstream file(testing::data_path("tokenizers/gpt-neox-20b.cases.txt"));
  int cases = 0;
  for (std::string line; std::getline(file, line); ++cases) {
    const std::size_t arrow = line.rfind(" => ");
    ASSERT_NE(arrow, std::string::npos) << line;
    std::vector<std::int32_t> ids;
    std::istringstream list(line.substr(arrow + 4));
    for (std::string id; std::getline(list, id, ',');) ids.push_back(std::stoi(id));
    EXPECT_EQ(testing::gpt_neox().encode(line.substr(0, arrow), SpecialTokens::omit), ids) << line;
  }
  EXPECT_GE(cases, 100);
}

}  // namespace
}  // namespace mamba2
