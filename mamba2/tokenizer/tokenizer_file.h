#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/base/json.h"
#include "mamba2/tokenizer/token_table.h"

namespace mamba2 {

/// Texts end to end.
class TextList {
 public:
  void add(std::string_view text) {
    texts_ += text;
    ends_.push_back(static_cast<std::uint32_t>(texts_.size()));
  }
  std::size_t size() const { return ends_.size(); }
  std::string_view operator[](std::size_t i) const {
    const std::size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(texts_).substr(begin, ends_[i] - begin);
  }

 private:
  std::string texts_;
  std::vector<std::uint32_t> ends_;
};

/// What a tokenizer.json holds; its two large parts are read straight into tables.
struct TokenizerFile {
  Json root;                   ///< everything but model.vocab and model.merges
  TokenTable tokens;           ///< model.vocab
  std::vector<double> scores;  ///< of the tokens, where model.vocab is a list of pairs (Unigram)
  TextList merges;             ///< model.merges, left and right in turn
};

/// The largest file that is read; real ones stay under 40 MB.
inline constexpr std::size_t max_tokenizer_bytes = std::size_t{64} << 20;

/// Whether bytes are a tokenizer.json rather than a SentencePiece model.  JSON starts with a brace, after white space
/// or a byte order mark; a SentencePiece model starts with the tag of its first piece, 0x0A, a length and the tag of
/// the piece's text, 0x0A again.
bool looks_like_tokenizer_json(std::string_view bytes);

/// Throws Error that starts with source for anything malformed.
TokenizerFile parse_tokenizer_file(std::string_view text, std::string_view source);

}  // namespace mamba2
