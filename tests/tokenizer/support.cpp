#include "tests/tokenizer/support.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "mamba2/base/file.h"
#include "mamba2/base/json.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2::testing {

std::string data_path(const std::string& name) {
  return std::string(MAMBA2_SOURCE_DIR "/tests/data/") + name;
}

std::vector<Case> read_cases(const std::string& path) {
  std::ifstream file(path);
  std::vector<Case> cases;
  for (std::string line; std::getline(file, line);) {
    const Json json = parse_json(line, path);
    cases.push_back({json["text"].get<std::string>(), json["ids"].get<std::vector<std::int32_t>>(),
                     json["decoded"].get<std::string>()});
  }
  EXPECT_FALSE(cases.empty()) << path;
  return cases;
}

const Tokenizer& gpt_neox() {
  static const auto tokenizer = Tokenizer::from_file(data_path("tokenizers/gpt-neox-20b.tokenizer.json"));
  return *tokenizer;
}

const Tokenizer& classics() {
  static const auto tokenizer = Tokenizer::from_pretrained(MAMBA2_SOURCE_DIR "/models/classics-5m");
  return *tokenizer;
}

const Tokenizer& mistral() {
  static const auto tokenizer = Tokenizer::from_file(data_path("tokenizers/mistral-v3.tokenizer.model"));
  return *tokenizer;
}

std::string stream(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids, SpecialTokens special) {
  StreamingDecoder decoder(tokenizer, special);
  std::string text;
  for (const std::int32_t id : ids) {
    const std::string part = decoder.push(id);
    EXPECT_TRUE(is_valid_utf8(part));
    text += part;
  }
  return text + decoder.finish();
}

}  // namespace mamba2::testing
