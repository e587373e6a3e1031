#include <sstream>

#include "tests/app/support.h"

namespace mamba2 {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

const std::vector<std::string> commands = {"generate",   "forward", "classify", "perplexity", "tokenize",
                                           "detokenize", "convert", "info",     "bench",      "doctor"};

TEST(Usage, HelpListsEveryCommand) {
  const ProcessResult help = mamba2_command({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_EQ(help.err, "");
  for (const std::string& command : commands) EXPECT_THAT(help.out, HasSubstr("  " + command));
}

TEST(Usage, EveryCommandHasTheSharedOptions) {
  for (const std::string& command : commands) {
    const ProcessResult help = mamba2_command({command, "--help"});
    EXPECT_EQ(help.exit_code, 0);
    for (const std::string option : {"--model", "--tokenizer", "--device", "--dtype", "--state-dtype", "--threads",
                                     "--gated-norm", "--deterministic", "--tensor-parallel", "--log-level", "--json"})
      EXPECT_THAT(help.out, HasSubstr(option)) << command;
  }
}

TEST(Usage, HelpOfGenerateShowsGroupsAndDefaults) {
  const std::string help = mamba2_command({"generate", "--help"}).out;
  for (const std::string text : {"Length:", "Sampling:", "Beams:", "Penalties:", "Tokens:", "Model:", "Machine:",
                                 "Output:", "--top-k INT=50", "-n,--max-new-tokens INT=128"})
    EXPECT_THAT(help, HasSubstr(text));
}

TEST(Usage, HelpFitsATerminalsWidth) {
  for (const std::string& command : commands) {
    std::istringstream lines(mamba2_command({command, "--help"}).out);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 140U) << command << ": " << line;
  }
}

TEST(Usage, VersionIsANumber) {
  const ProcessResult version = mamba2_command({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.out, testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST(Usage, IsWrongWithoutACommand) {
  expect_error(mamba2_command({}), 2, {"--help"});
}

TEST(Usage, IsWrongWithAnUnknownCommand) {
  expect_error(mamba2_command({"genrate"}), 2, {"genrate"});
}

TEST(Usage, IsWrongWithAnUnknownOption) {
  for (const std::string& command : commands)
    expect_error(mamba2_command({command, "--frobnicate"}), 2, {"mamba2 " + command + " --help"});
}

TEST(Usage, IsWrongWithoutRequiredOptions) {
  expect_error(mamba2_command({"forward"}), 2, {"--input"});
  expect_error(mamba2_command({"perplexity"}), 2, {"--file"});
  expect_error(mamba2_command({"convert", "in"}), 2, {"out"});
}

TEST(Usage, IsWrongWithTwoSourcesOfPrompts) {
  expect_error(mamba2_command({"generate", "The", "--input", "x.json"}), 2, {"--input"});
}

class WrongValue : public testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(WrongValue, IsNamedInOneLine) {
  const auto [option, value] = GetParam();
  const ProcessResult result = mamba2_command({"generate", "The", option, value});
  expect_error(result, 2, {});
  // an option is named by itself or by its field
  auto in_words = [](std::string text) {
    for (char& c : text) c = c == '-' || c == '_' ? ' ' : c;
    return text;
  };
  EXPECT_THAT(in_words(result.err), HasSubstr(in_words(option.substr(2))));
}

using Value = std::pair<std::string, std::string>;
INSTANTIATE_TEST_SUITE_P(
    OfGenerate, WrongValue,
    testing::Values(Value{"--temperature", "0"}, Value{"--temperature", "-1"}, Value{"--temperature", "nan"},
                    Value{"--temperature", "NaN"}, Value{"--temperature", "1e999"}, Value{"--temperature", "warm"},
                    Value{"--temperature", ""}, Value{"--top-p", "2"}, Value{"--top-p", "-0.1"}, Value{"--top-k", "-1"},
                    Value{"--top-k", "1.5"}, Value{"--top-k", "99999999999999999999"}, Value{"--min-p", "7"},
                    Value{"--typical-p", "0"}, Value{"--epsilon-cutoff", "1"}, Value{"--eta-cutoff", "-1"},
                    Value{"--repetition-penalty", "0"}, Value{"--num-beams", "0"}, Value{"--num-beams", "1000000000"},
                    Value{"--num-return-sequences", "0"}, Value{"--max-new-tokens", "-1"},
                    Value{"--max-new-tokens", "0"}, Value{"--max-length", "0"}, Value{"--max-time", "-1"},
                    Value{"--seed", "-1"}, Value{"--threads", "100000"}, Value{"--threads", "-1"},
                    Value{"--tensor-parallel", "0"}, Value{"--device", "tpu"}, Value{"--dtype", "i3"},
                    Value{"--state-dtype", "q4"}, Value{"--gated-norm", "no"}, Value{"--bad-words-ids", "7"},
                    Value{"--bad-words-ids", "[[]]"}, Value{"--eos-token-id", "1,,2"}, Value{"--suppress-tokens", "a"},
                    Value{"--log-level", "loud"}, Value{"--sequence-bias", "[[1,2]]"}));

TEST(Usage, SeveralSamplesNeedSamplingOrBeams) {
  expect_error(mamba2_command({"generate", "The", "--num-return-sequences", "2"}), 1, {"num_return_sequences"});
}

}  // namespace
}  // namespace mamba2
