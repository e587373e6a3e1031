#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "mamba2/tokenizer/backend.h"
#include "mamba2/tokenizer/byte_trie.h"
#include "mamba2/tokenizer/model.h"
#include "mamba2/tokenizer/sentencepiece_file.h"
#include "mamba2/tokenizer/sentencepiece_normalizer.h"
#include "mamba2/tokenizer/token_table.h"

namespace mamba2 {

/// A tokenizer by a SentencePiece model of type BPE or unigram (Kudo and Richardson 2018).
class SentencePieceTokenizer : public TokenizerBackend {
 public:
  SentencePieceTokenizer(const SentencePieceFile& file, std::string_view source);

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override;
  std::unique_ptr<Detokenizer> detokenizer(SpecialTokens special, std::unique_ptr<DecodeStage> next) const override;
  /// `<s>` in front, as Hugging Face's Llama tokenizer has it; tokenizer_config.json may say otherwise.
  Affixes affixes() const override;
  SpecialIds special_ids() const override { return special_ids_; }
  std::int32_t end_id() const override { return static_cast<std::int32_t>(types_.size()); }
  std::optional<std::int32_t> token_to_id(std::string_view token) const override;
  std::optional<std::string> id_to_token(std::int32_t id) const override;

  using PieceType = SentencePieceFile::PieceType;

  /// The piece of an id, and the id that SentencePiece finds for that piece's text: control, unknown and byte pieces
  /// come before others of the same text.
  std::string_view text(std::int32_t id) const;
  std::int32_t find(std::string_view text) const;
  PieceType type(std::int32_t id) const { return types_[static_cast<std::size_t>(id)]; }
  /// The byte a byte piece stands for.
  static int byte_of(std::string_view piece);

  /// Whether decoding drops the first U+2581, and whether every leading one.
  enum class LeadingSpace { kept, first_dropped, all_dropped };
  LeadingSpace leading_space() const { return leading_space_; }
  const std::string& unk_surface() const { return unk_surface_; }

 private:
  /// Which halves an unused piece was merged from, by its text; the last merge counts.
  using UnusedMerges = std::unordered_map<std::string_view, std::size_t>;

  void add_pieces(const SentencePieceFile& file);
  void check_bytes(const SentencePieceFile& file);
  void find_special_ids(const SentencePieceFile& file);
  void encode_bpe(std::string_view text, EncodeWorkspace& space, std::vector<std::int32_t>& ids) const;
  void encode_unigram(std::string_view text, std::vector<std::int32_t>& ids) const;
  void split_symbols(std::string_view text, std::vector<Symbol>& symbols) const;
  MergeCandidate merge(std::string_view text, const Symbol& left, const Symbol& right, UnusedMerges& unused) const;
  void append_resegmented(std::string_view piece, const UnusedMerges& unused, std::vector<std::int32_t>& ids) const;
  void append_piece(std::string_view piece, std::int32_t id, std::vector<std::int32_t>& ids) const;
  void append_joining_unknown(const std::vector<std::int32_t>& from, std::vector<std::int32_t>& ids) const;

  SentencePieceFile::ModelType model_type_;
  TokenTable pieces_;    // normal, user-defined and unused
  TokenTable reserved_;  // control, unknown and byte
  std::vector<PieceType> types_;
  std::vector<float> scores_;
  ByteTrie user_defined_;  // for BPE's symbols and the normalizer
  ByteTrie trie_;          // all of pieces_, for unigram
  std::array<std::int32_t, 256> byte_ids_{};
  bool byte_fallback_;
  bool has_unused_ = false, cuts_at_metaspace_ = false;
  float min_score_ = 0, max_score_ = 0;
  std::int32_t unk_id_ = -1;
  SpecialIds special_ids_;
  std::string unk_surface_;
  LeadingSpace leading_space_;
  std::optional<SentencePieceNormalizer> normalizer_;
};

}  // namespace mamba2
