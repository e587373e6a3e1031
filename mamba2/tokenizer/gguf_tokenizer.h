#pragma once

#include <memory>
#include <optional>
#include <string>

#include "mamba2/base/gguf_metadata.h"
#include "mamba2/tokenizer/backend.h"

namespace mamba2 {

/// What a GGUF file's tokenizer.ggml keys say about tokens, by name.
struct GgufSpecialTokens {
  std::optional<std::string> bos, eos, pad, unk;
  std::optional<bool> add_bos, add_eos;
};

/// The tokenizer in a GGUF file: tokenizer.huggingface.json, a whole tokenizer.json, where it is there; else
/// tokenizer.ggml.model "gpt2" (byte-level BPE split as GPT-2 does) or "llama" (SentencePiece BPE with byte fallback).
/// Throws Error that names the file and the key.
std::unique_ptr<const TokenizerBackend> parse_gguf_tokenizer(const GgufMetadata& metadata);

GgufSpecialTokens gguf_special_tokens(const GgufMetadata& metadata);

}  // namespace mamba2
