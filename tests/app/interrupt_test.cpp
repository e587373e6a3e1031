#include <csignal>

#include "tests/app/support.h"

namespace mamba2 {
namespace {

/// More tokens than any test waits for.
const std::string endless = "100000000";

RunOptions interrupt_when(std::function<bool(const ProcessResult&)> when) {
  RunOptions options;
  options.signal = SIGINT;
  options.when = std::move(when);
  return options;
}

TEST(Interrupt, KeepsWhatWasGenerated) {
  const ProcessResult result =
      mamba2_command({"generate", "It was a dark night, and the", "-n", endless, "--ignore-eos"},
                     interrupt_when([](const ProcessResult& so_far) { return so_far.out.size() > 30; }));
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_THAT(result.out, testing::StartsWith(" sun was shining in the sun."));
  EXPECT_THAT(result.out, testing::EndsWith("\n"));
}

TEST(Interrupt, StillPrintsTheResultAsJson) {
  // The warning about --top-k is the first that generation says.
  const ProcessResult result =
      mamba2_command({"generate", "The", "-n", endless, "--ignore-eos", "--top-k", "3", "--json"},
                     interrupt_when([](const ProcessResult& so_far) { return !so_far.err.empty(); }));
  EXPECT_EQ(result.exit_code, 130);
  const std::vector<Json> lines = json_lines(result.out);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0]["finish_reason"], "cancelled");
}

TEST(Interrupt, AReaderThatGoesAwayEndsTheProgram) {
  RunOptions options;
  options.close_stdout_after = 1;
  const ProcessResult result = mamba2_command({"generate", "The", "-n", endless, "--ignore-eos"}, options);
  EXPECT_EQ(result.signal, SIGPIPE);
}

}  // namespace
}  // namespace mamba2
