#include "tests/app/support.h"

namespace mamba2 {
namespace {

struct Golden {
  const char* cases;
  std::string tokenizer;
};

void PrintTo(const Golden& golden, std::ostream* out) {
  *out << golden.cases;
}

class TokenizerCases : public testing::TestWithParam<Golden> {
 protected:
  std::vector<Json> cases() const { return json_lines(read_whole(golden(GetParam().cases))); }
  static std::string lines_of(const std::vector<Json>& cases, const std::string& field) {
    std::string lines;
    for (const Json& one : cases) lines += Json{{field, one[field]}}.dump() + "\n";
    return lines;
  }
};

TEST_P(TokenizerCases, GiveTheirIdsAndDecodedTexts) {
  const std::vector<Json> expected = cases();
  RunOptions options;
  options.input = lines_of(expected, "text");
  const ProcessResult result = mamba2_command({"tokenize", "--jsonl", "--tokenizer", GetParam().tokenizer}, options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const std::vector<Json> got = json_lines(result.out);
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i]["ids"], expected[i]["ids"]) << expected[i]["text"];
    EXPECT_EQ(got[i]["decoded"], expected[i]["decoded"]) << expected[i]["text"];
  }
}

TEST_P(TokenizerCases, GiveTheirTextsBack) {
  const std::vector<Json> expected = cases();
  RunOptions options;
  options.input = lines_of(expected, "ids");
  const ProcessResult result = mamba2_command({"detokenize", "--jsonl", "--tokenizer", GetParam().tokenizer}, options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const std::vector<Json> got = json_lines(result.out);
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i]["text"], expected[i]["decoded"]);
}

INSTANTIATE_TEST_SUITE_P(
    OfEveryKind, TokenizerCases,
    testing::Values(Golden{"classics.cases.jsonl", classics_5m()},
                    Golden{"gpt-neox-20b.cases.jsonl", test_data("tokenizers/gpt-neox-20b.tokenizer.json")},
                    Golden{"mistral-v3.cases.jsonl", test_data("tokenizers/mistral-v3.tokenizer.model")}));

TEST(Tokenize, PrintsIdsAndTakesThemBack) {
  const ProcessResult ids = mamba2_command({"tokenize", "It was a dark night, and the"});
  EXPECT_EQ(ids.out, "806 308 260 1204 892 13 280 264\n");
  EXPECT_EQ(mamba2_command({"detokenize", "806", "308 260", "1204"}).out, "It was a dark\n");
}

TEST(Tokenize, ReadsAFileAndStandardInput) {
  const TemporaryFolder folder;
  EXPECT_EQ(mamba2_command({"tokenize", "--file", folder.write("text", "It was")}).out, "806 308\n");
  RunOptions options;
  options.input = "It was";
  EXPECT_EQ(mamba2_command({"tokenize"}, options).out, "806 308\n");
}

TEST(Tokenize, AddsSpecialTokensWhereAsked) {
  const std::string mistral = test_data("tokenizers/mistral-v3.tokenizer.model");
  EXPECT_EQ(mamba2_command({"tokenize", "--tokenizer", mistral, "--add-special-tokens", ""}).out, "1\n");
  EXPECT_EQ(mamba2_command({"tokenize", "--tokenizer", mistral, ""}).out, "\n");
}

TEST(Tokenize, AnswersInvalidUtf8WithValidJson) {
  const std::vector<Json> lines = run_json({"tokenize", "caf\xE9"});
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0]["decoded"], "caf\uFFFD");
  // three of the four bytes of one character
  EXPECT_EQ(run_json({"detokenize", "177"}).size(), 1U);
}

TEST(Tokenize, NamesTheLineThatIsWrong) {
  RunOptions options;
  options.input = "\n{\"text\": 7}\n";
  expect_error(mamba2_command({"tokenize", "--jsonl"}, options), 1, {"standard input: line 2", "text"});
  options.input = "{\"ids\": [-1]}";
  expect_error(mamba2_command({"detokenize", "--jsonl"}, options), 1, {"standard input: line 1", "ids", "-1"});
  options.input = "{\"ids\": [99999]}";
  expect_error(mamba2_command({"detokenize", "--jsonl"}, options), 1, {"99999"});
  options.input = std::string(100000, '[');
  expect_error(mamba2_command({"tokenize", "--jsonl"}, options), 1, {"standard input: line 1"});
}

TEST(Tokenize, NamesAnIdThatIsNone) {
  expect_error(mamba2_command({"detokenize", "12x"}), 1, {"12x"});
  expect_error(mamba2_command({"detokenize", "8192000"}), 1, {"8192000"});
}

TEST(Tokenize, SaysWhereItLookedForATokenizer) {
  expect_error(mamba2_command({"tokenize", "--model", golden("state-spaces"), "text"}), 1,
               {"state-spaces", "tokenizer.json", "--tokenizer"});
}

}  // namespace
}  // namespace mamba2
