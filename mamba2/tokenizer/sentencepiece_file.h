#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mamba2 {

/// What a SentencePiece .model holds (sentencepiece_model.proto), with that schema's defaults.
struct SentencePieceFile {
  enum class PieceType { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  enum class ModelType { unigram = 1, bpe = 2, word = 3, character = 4 };

  struct Piece {
    std::string_view text;
    float score = 0;
    PieceType type = PieceType::normal;
  };

  struct Normalization {
    std::string_view precompiled_charsmap;
    bool add_dummy_prefix = true;
    bool remove_extra_whitespaces = true;
    bool escape_whitespaces = true;
    bool treat_whitespace_as_suffix = false;  ///< the trainer's, where the dummy prefix becomes a suffix
  };

  std::vector<Piece> pieces;
  ModelType model_type = ModelType::unigram;
  bool byte_fallback = false;
  std::string_view unk_piece = "<unk>", bos_piece = "<s>", eos_piece = "</s>", pad_piece = "<pad>";
  std::string_view unk_surface = " \xE2\x81\x87 ";
  Normalization normalization;
};

/// The result views bytes.  Throws Error that starts with source for anything malformed, and for a denormalizer, which
/// no tokenizer in use has.
SentencePieceFile parse_sentencepiece_file(std::string_view bytes, std::string_view source);

}  // namespace mamba2
