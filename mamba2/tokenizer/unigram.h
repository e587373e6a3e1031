#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "mamba2/tokenizer/byte_trie.h"
#include "mamba2/tokenizer/model.h"
#include "mamba2/tokenizer/token_table.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {

/// A stretch of a text and the token it is; id none where no token fits.
struct Segment {
  std::size_t begin, end;
  std::int32_t id;
};

/// The segmentation of valid UTF-8 text into the trie's tokens with the highest sum of scores (Kudo 2018, section 3.1,
/// by Viterbi's algorithm over byte positions).  score(id, bytes) is a token's, unknown_score that of a character that
/// is no token; sums are kept as Sum, for SentencePiece and Hugging Face round differently.  skip(id) leaves a token
/// out.
template <class Sum, class Score, class Skip>
std::vector<Segment> best_segmentation(std::string_view text, const ByteTrie& trie, const Score& score,
                                       Sum unknown_score, const Skip& skip) {
  struct Best {
    Sum sum = 0;
    std::uint32_t size = 0;  // of the last token; 0: not reached
    std::int32_t id = ByteTrie::none;
  };
  std::vector<Best> best(text.size() + 1);
  const auto offer = [&](std::size_t begin, std::size_t size, Sum sum, std::int32_t id) {
    Best& target = best[begin + size];
    if (target.size == 0 || sum > target.sum) target = {sum, static_cast<std::uint32_t>(size), id};
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t character = decode_valid_utf8(text, at).size;
    const Sum here = best[at].sum;
    bool has_character = false;
    std::int32_t node = ByteTrie::none;
    for (std::size_t end = at; end < text.size();) {
      node = trie.step(node, text[end++]);
      if (node == ByteTrie::none) break;
      const std::int32_t id = trie.value(node);
      if (id == ByteTrie::none || skip(id)) continue;
      offer(at, end - at, score(id, end - at) + here, id);
      has_character = has_character || end - at == character;
    }
    if (!has_character) offer(at, character, unknown_score + here, ByteTrie::none);
    at += character;
  }
  std::vector<Segment> segments;
  for (std::size_t end = text.size(); end > 0; end -= best[end].size)
    segments.push_back({end - best[end].size, end, best[end].id});
  std::reverse(segments.begin(), segments.end());
  return segments;
}

/// The Unigram model of tokenizer.json.
class Unigram : public WordModel {
 public:
  enum class ByteFallback { yes, no };

  /// tokens, whose ids are 0 to scores.size() - 1, outlives the model.
  Unigram(const TokenTable& tokens, std::vector<double> scores, std::optional<std::int32_t> unk_id,
          ByteFallback byte_fallback);

  void encode(std::string_view word, EncodeWorkspace& space, std::vector<std::int32_t>& out) const override;

 private:
  void encode_new(std::string_view word, std::vector<std::int32_t>& out) const;
  void append_text(std::string_view text, std::vector<std::int32_t>& out) const;
  std::int32_t unknown_id(std::string_view text) const;

  const TokenTable& tokens_;
  std::vector<double> scores_;
  std::optional<std::int32_t> unk_id_;
  std::vector<std::int32_t> byte_ids_;  // of <0xNN>; empty without byte fallback
  ByteTrie trie_;
  double unknown_score_ = 0;
};

}  // namespace mamba2
