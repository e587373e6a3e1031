#pragma once

#include <memory>

#include "mamba2/tokenizer/sentencepiece.h"

namespace mamba2 {

/// Decodes as SentencePiece's Decode does: control pieces have no text, the unknown piece shows its surface, bytes are
/// joined to characters (one U+FFFD for each that fits none), and the model's dummy prefix is dropped.  tokenizer
/// outlives the result.
std::unique_ptr<Detokenizer> make_sentencepiece_detokenizer(const SentencePieceTokenizer& tokenizer,
                                                            std::unique_ptr<DecodeStage> next);

}  // namespace mamba2
