#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/tokenizer/model.h"
#include "mamba2/tokenizer/token_table.h"

namespace mamba2 {

/// The merges of a BPE vocabulary: (left, right) -> (rank, token), as a hash table.
class MergeTable {
 public:
  void reserve(std::size_t merges);
  /// A pair that is there already gets the new rank.
  void set(std::int32_t left, std::int32_t right, std::uint32_t rank, std::int32_t merged);
  MergeCandidate find(std::int32_t left, std::int32_t right) const;

 private:
  struct Slot {
    std::uint64_t pair = empty;
    MergeCandidate candidate;
  };
  static constexpr std::uint64_t empty = ~std::uint64_t{0};

  std::size_t slot_of(std::uint64_t pair) const;

  std::vector<Slot> slots_;
};

struct BpeOptions {
  std::optional<std::string> unk_token;
  std::string continuing_subword_prefix;  ///< before every character of a word but its first
  std::string end_of_word_suffix;         ///< after a word's last character
  bool fuse_unk = false;                  ///< unknown characters in a row are one token
  bool byte_fallback = false;             ///< a character that is no token becomes its bytes' <0xNN>, if all are tokens
  bool ignore_merges = false;             ///< a word that is a token is that token
  bool words_are_bytes = false;           ///< words come as plain bytes, each standing for its byte-level character
};

/// The BPE model of tokenizer.json.
class Bpe : public WordModel {
 public:
  /// tokens outlives the model.  Throws Error where words_are_bytes is asked for and can_take_bytes says no.
  Bpe(const TokenTable& tokens, MergeTable merges, BpeOptions options);

  /// Whether every byte-level character is a token and neither prefix nor suffix is used.
  static bool can_take_bytes(const TokenTable& tokens, const BpeOptions& options);

  void encode(std::string_view word, EncodeWorkspace& space, std::vector<std::int32_t>& out) const override;

 private:
  std::int32_t whole_word(std::string_view word, EncodeWorkspace& space) const;
  void encode_part(std::string_view part, EncodeWorkspace& space, std::vector<std::int32_t>& out) const;
  void symbols_of_bytes(std::string_view word, std::vector<Symbol>& symbols) const;
  void symbols_of_text(std::string_view word, EncodeWorkspace& space) const;
  bool add_bytes(std::string_view character, std::vector<Symbol>& symbols) const;
  std::int32_t unknown_id(std::string_view character) const;
  bool can_cut_at_metaspace() const;

  const TokenTable& tokens_;
  MergeTable merges_;
  BpeOptions options_;
  std::int32_t unk_id_ = -1;
  std::array<std::int32_t, 256> id_of_byte_{};  // of its byte-level character, or of <0xNN> with byte_fallback
  bool cuts_at_metaspace_ = false;
};

}  // namespace mamba2
