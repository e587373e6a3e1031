#include "tests/app/support.h"

#include <sstream>

#include "mamba2/base/file.h"

namespace mamba2 {

std::string classics_5m() {
  return MAMBA2_SOURCE_DIR "/models/classics-5m";
}

std::string test_data(const std::string& name) {
  return MAMBA2_SOURCE_DIR "/tests/data/" + name;
}

std::string golden(const std::string& name) {
  return test_data("golden/" + name);
}

std::string read_whole(const std::string& path) {
  return read_file(path);
}

std::vector<Json> json_lines(const std::string& out) {
  std::vector<Json> lines;
  std::istringstream stream(out);
  for (std::string line; std::getline(stream, line);) {
    try {
      lines.push_back(parse_json(line, "output"));
    } catch (const std::exception& e) {
      ADD_FAILURE() << e.what() << ": " << line;
    }
  }
  return lines;
}

std::vector<Json> run_json(std::vector<std::string> arguments, const RunOptions& options) {
  arguments.emplace_back("--json");
  const ProcessResult result = mamba2_command(arguments, options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return json_lines(result.out);
}

std::vector<std::string> keys(const Json& object) {
  std::vector<std::string> out;
  for (const auto& [key, value] : object.items()) out.push_back(key);
  return out;
}

void expect_error(const ProcessResult& result, int code, const std::vector<std::string>& texts) {
  EXPECT_EQ(result.signal, 0) << result.err;
  EXPECT_EQ(result.exit_code, code) << result.err;
  EXPECT_THAT(result.err, testing::StartsWith("error: "));
  EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  for (const std::string& text : texts) EXPECT_THAT(result.err, testing::HasSubstr(text));
  EXPECT_EQ(result.out, "");
}

}  // namespace mamba2
