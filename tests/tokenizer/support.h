#pragma once

#include <memory>
#include <string>
#include <vector>

#include "mamba2/tokenizer/tokenizer.h"

namespace mamba2::testing {

/// A text with the ids and the decoded text that its tokenizer gives it.
struct Case {
  std::string text;
  std::vector<std::int32_t> ids;
  std::string decoded;
};

std::string data_path(const std::string& name);
/// The lines of a *.cases.jsonl.
std::vector<Case> read_cases(const std::string& path);

const Tokenizer& gpt_neox();
const Tokenizer& classics();
const Tokenizer& mistral();

/// All that a StreamingDecoder gives for ids.
std::string stream(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids, SpecialTokens special);

}  // namespace mamba2::testing
