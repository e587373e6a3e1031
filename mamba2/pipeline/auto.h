#pragma once

#include <memory>
#include <string>

#include "mamba2/generate/generation_config.h"
#include "mamba2/model/modeling_mamba2.h"
#include "mamba2/tokenizer/tokenizer.h"

/// transformers' Auto classes: the same names, so that a Python example reads the same here.  Every `path` is a folder,
/// a file or a Hub name ORG/NAME[@REVISION]; every function throws Error that names the file and what is wrong.
namespace mamba2 {

struct AutoTokenizer {
  static std::unique_ptr<const Tokenizer> from_pretrained(const std::string& path);
};

struct AutoModelForCausalLM {
  static Mamba2ForCausalLM from_pretrained(const std::string& path, const LoadOptions& options = {}) {
    return Mamba2ForCausalLM::from_pretrained(path, options);
  }
};

struct AutoModelForSequenceClassification {
  static Mamba2ForSequenceClassification from_pretrained(const std::string& path, const LoadOptions& options = {}) {
    return Mamba2ForSequenceClassification::from_pretrained(path, options);
  }
};

/// What a model's generation_config.json and config.json say about generating; fields that neither names are not set.
GenerationConfig generation_config_of(const Mamba2ForCausalLM& model);

/// The text of ids without special tokens.  Ids past the tokenizer's vocabulary, which a model's padded one may hold,
/// have none.
std::string text_of(const Tokenizer& tokenizer, std::span<const std::int32_t> ids);

/// What the new tokens of ids add to the text of the first prompt_length of them, special tokens left out.  Not the
/// same as decoding the new tokens alone: a tokenizer may drop the space at the start of a text.
std::string continuation(const Tokenizer& tokenizer, std::span<const std::int32_t> ids, std::size_t prompt_length);

}  // namespace mamba2
