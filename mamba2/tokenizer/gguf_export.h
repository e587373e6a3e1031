#pragma once

#include <cstdint>
#include <string>

#include "mamba2/base/gguf_builder.h"

namespace mamba2 {

/// Puts a tokenizer (a file or a folder, as Tokenizer::from_pretrained takes it) into the metadata of a GGUF file,
/// under the keys that llama.cpp reads.  Byte-level BPE becomes "gpt2" with the pre-tokenizer "gpt-2", the whole
/// tokenizer.json beside it as tokenizer.huggingface.json, which parse_gguf_tokenizer prefers: llama.cpp knows no
/// normalizer.  A SentencePiece BPE model becomes "llama".  Where a folder holds both, the SentencePiece model is taken
/// if the tokenizer.json isn't byte-level; where it holds none, the file says so.  A GGUF file's keys are copied.  Ids
/// up to vocab_size that have no token are filled up with unused ones, since llama.cpp counts tokens to know the
/// embeddings' rows. bos, eos, pad and unk ids that the metadata already has stay.
///
/// Throws Error that names the file and the field for a tokenizer that llama.cpp has no word for.
void add_gguf_tokenizer(GgufMetadataBuilder& metadata, const std::string& path, std::int64_t vocab_size);

}  // namespace mamba2
