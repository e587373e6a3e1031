#include "mamba2/tokenizer/unigram.h"

#include <fmt/format.h>

#include <cmath>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

/// How much less likely an unknown character is than the least likely token.
constexpr double unknown_penalty = 10;

}  // namespace

Unigram::Unigram(const TokenTable& tokens, std::vector<double> scores, std::optional<std::int32_t> unk_id,
                 ByteFallback byte_fallback)
    : tokens_(tokens), scores_(std::move(scores)), unk_id_(unk_id) {
  require(!scores_.empty(), "model.vocab is empty");
  double lowest = scores_.front();
  for (std::size_t i = 0; i < scores_.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    require(std::isfinite(scores_[i]), "model.vocab[{}] has the score {}", i, scores_[i]);
    lowest = std::min(lowest, scores_[i]);
    trie_.add(tokens_.text(id).value_or(""), id);
  }
  unknown_score_ = lowest - unknown_penalty;
  if (unk_id_) require(*unk_id_ >= 0 && *unk_id_ < tokens_.end_id(), "model.unk_id {} is no token", *unk_id_);
  if (byte_fallback == ByteFallback::no) return;
  for (unsigned byte = 0; byte < 256; ++byte) byte_ids_.push_back(tokens_.find(fmt::format("<0x{:02X}>", byte)));
}

void Unigram::encode(std::string_view word, EncodeWorkspace& space, std::vector<std::int32_t>& out) const {
  append_cached(space.cache, word, out,
                [&](std::string_view part, std::vector<std::int32_t>& ids) { encode_new(part, ids); });
}

void Unigram::encode_new(std::string_view word, std::vector<std::int32_t>& out) const {
  const auto segments = best_segmentation<double>(
      word, trie_, [&](std::int32_t id, std::size_t) { return scores_[static_cast<std::size_t>(id)]; }, unknown_score_,
      [](std::int32_t) { return false; });
  const auto is_unknown = [&](const Segment& s) { return s.id == ByteTrie::none || s.id == unk_id_; };
  for (std::size_t i = 0; i < segments.size();) {
    std::size_t end = i + 1;
    if (is_unknown(segments[i]))
      while (end < segments.size() && is_unknown(segments[end])) ++end;  // unknown characters in a row are one
    const std::size_t begin = segments[i].begin;
    append_text(word.substr(begin, segments[end - 1].end - begin), out);
    i = end;
  }
}

void Unigram::append_text(std::string_view text, std::vector<std::int32_t>& out) const {
  if (const std::int32_t id = tokens_.find(text); id >= 0) {
    out.push_back(id);
    return;
  }
  const auto id_of = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  if (!byte_ids_.empty() && std::all_of(text.begin(), text.end(), [&](char byte) { return id_of(byte) >= 0; })) {
    for (const char byte : text) out.push_back(id_of(byte));
    return;
  }
  out.push_back(unknown_id(text));
}

std::int32_t Unigram::unknown_id(std::string_view text) const {
  require(unk_id_.has_value(), "'{}' is no token, and the file names no model.unk_id", printable(text));
  return *unk_id_;
}

}  // namespace mamba2
