#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "mamba2/base/gguf_metadata.h"
#include "mamba2/tokenizer/backend.h"

namespace mamba2 {

/// Kinds of tokens in tokenizer.ggml.token_type, numbered as SentencePiece numbers its pieces.
struct GgufTokenType {
  enum : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
};

/// What a GGUF file's tokenizer.ggml keys say about tokens, by name.
struct GgufSpecialTokens {
  std::optional<std::string> bos, eos, pad, unk;
  std::optional<bool> add_bos, add_eos;
};

/// The tokenizer in a GGUF file: tokenizer.huggingface.json, a whole tokenizer.json, where it is there; else
/// tokenizer.ggml.model "gpt2" (byte-level BPE split as GPT-2 does) or "llama" (SentencePiece BPE with byte fallback).
/// Throws Error that names the file and the key.
std::unique_ptr<const TokenizerBackend> parse_gguf_tokenizer(const GgufMetadata& metadata);

/// The same as the files that a model's folder would hold, by name: tokenizer.json or tokenizer.model, and
/// tokenizer_config.json.  None where the file holds no tokenizer.
std::map<std::string, std::string> gguf_tokenizer_files(const GgufMetadata& metadata);

GgufSpecialTokens gguf_special_tokens(const GgufMetadata& metadata);

}  // namespace mamba2
