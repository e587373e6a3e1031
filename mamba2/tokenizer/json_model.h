#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "mamba2/tokenizer/json_field.h"
#include "mamba2/tokenizer/model.h"
#include "mamba2/tokenizer/tokenizer_file.h"

namespace mamba2 {

/// The form in which words reach the model.
enum class WordForm { text, bytes_if_possible };

struct BuiltModel {
  std::unique_ptr<const WordModel> model;
  std::optional<std::int32_t> unk_id;
  bool takes_bytes = false;
};

/// The model of a tokenizer.json.  tokens is file.tokens at the place where it will stay.  Throws Error that names the
/// field.
BuiltModel build_model(const TokenizerFile& file, const TokenTable& tokens, const JsonField& field, WordForm form);

}  // namespace mamba2
