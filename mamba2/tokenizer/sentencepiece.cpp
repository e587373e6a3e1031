#include "mamba2/tokenizer/sentencepiece.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/metaspace.h"
#include "mamba2/tokenizer/sentencepiece_decoder.h"
#include "mamba2/tokenizer/unigram.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

using PieceType = SentencePieceFile::PieceType;

/// How much less likely an unknown character is than the least likely piece.
constexpr float unknown_penalty = 10;

/// Symbols that merge, and user-defined ones, which don't.
constexpr std::int32_t free_symbol = 0, frozen_symbol = 1;

bool is_reserved(PieceType type) {
  return type == PieceType::control || type == PieceType::unknown || type == PieceType::byte;
}

/// Larger scores come first: the bits of a float, turned around so that they sort as unsigned numbers.
std::uint32_t order_of(float score) {
  const auto bits = std::bit_cast<std::uint32_t>(score == 0 ? 0.0F : score);
  return (bits & 0x80000000U) != 0 ? bits : 0x7FFFFFFFU - bits;
}

std::string byte_piece(unsigned byte) {
  return fmt::format("<0x{:02X}>", byte);
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(const SentencePieceFile& file, std::string_view source)
    : model_type_(file.model_type), byte_fallback_(file.byte_fallback), unk_surface_(file.unk_surface) {
  using ModelType = SentencePieceFile::ModelType;
  require(model_type_ == ModelType::bpe || model_type_ == ModelType::unigram,
          "{}: trainer_spec: model_type {} is not supported, expected 1 (unigram) or 2 (BPE)", source,
          static_cast<int>(model_type_));
  add_pieces(file);
  check_bytes(file);
  find_special_ids(file);
  const auto& spec = file.normalization;
  leading_space_ = spec.remove_extra_whitespaces ? LeadingSpace::all_dropped
                   : spec.add_dummy_prefix       ? LeadingSpace::first_dropped
                                                 : LeadingSpace::kept;
  normalizer_.emplace(spec, user_defined_);
}

void SentencePieceTokenizer::add_pieces(const SentencePieceFile& file) {
  pieces_.reserve(file.pieces.size());
  // FLT_MIN, not the lowest float: SentencePiece starts its search for the largest score there.
  min_score_ = std::numeric_limits<float>::max();
  max_score_ = std::numeric_limits<float>::min();
  bool spans_words = false;
  for (std::size_t i = 0; i < file.pieces.size(); ++i) {
    const auto& piece = file.pieces[i];
    const auto id = static_cast<std::int32_t>(i);
    TokenTable& table = is_reserved(piece.type) ? reserved_ : pieces_;
    if (table.add(piece.text, id) != TokenTable::Added::yes)
      fail("pieces[{}]: '{}' is there already", i, printable(piece.text));
    types_.push_back(piece.type);
    scores_.push_back(piece.score);
    if (piece.type == PieceType::unknown) {
      require(unk_id_ < 0, "pieces[{}]: is a second unknown piece", i);
      unk_id_ = id;
    }
    if (piece.type == PieceType::normal) {
      min_score_ = std::min(min_score_, piece.score);
      max_score_ = std::max(max_score_, piece.score);
    }
    if (piece.type == PieceType::user_defined) user_defined_.add(piece.text, id);
    if (model_type_ == SentencePieceFile::ModelType::unigram && !is_reserved(piece.type)) trie_.add(piece.text, id);
    has_unused_ = has_unused_ || piece.type == PieceType::unused;
    spans_words = spans_words || (!is_reserved(piece.type) && spans_metaspace_words(piece.text));
  }
  require(unk_id_ >= 0, "pieces: none is of the type unknown");
  // What an unused piece is made of depends on all of the text.
  cuts_at_metaspace_ = !spans_words && !has_unused_;
}

void SentencePieceTokenizer::check_bytes(const SentencePieceFile& file) {
  for (std::size_t i = 0; i < file.pieces.size(); ++i) {
    if (file.pieces[i].type != PieceType::byte) continue;
    require(byte_fallback_, "pieces[{}]: is a byte though trainer_spec.byte_fallback is false", i);
    require(byte_of(file.pieces[i].text) >= 0, "pieces[{}]: '{}' is no byte", i, printable(file.pieces[i].text));
  }
  if (!byte_fallback_) return;
  for (unsigned byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = reserved_.find(byte_piece(byte));
    require(byte_ids_[byte] >= 0 && type(byte_ids_[byte]) == PieceType::byte,
            "pieces: {} is missing though trainer_spec.byte_fallback is true", byte_piece(byte));
  }
}

void SentencePieceTokenizer::find_special_ids(const SentencePieceFile& file) {
  const auto control = [&](std::string_view piece, std::string_view fallback) -> std::optional<std::int32_t> {
    const std::int32_t id = find(piece.empty() ? fallback : piece);
    if (type(id) != PieceType::control) return std::nullopt;
    return id;
  };
  special_ids_ = {.bos = control(file.bos_piece, "<s>"),
                  .eos = control(file.eos_piece, "</s>"),
                  .pad = control(file.pad_piece, "<pad>"),
                  .unk = unk_id_};
}

int SentencePieceTokenizer::byte_of(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
  const int high = digit(piece[3]), low = digit(piece[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::string_view SentencePieceTokenizer::text(std::int32_t id) const {
  const TokenTable& table = is_reserved(type(id)) ? reserved_ : pieces_;
  return table.text(id).value_or(std::string_view());
}

std::int32_t SentencePieceTokenizer::find(std::string_view text) const {
  if (const std::int32_t id = reserved_.find(text); id >= 0) return id;
  const std::int32_t id = pieces_.find(text);
  return id >= 0 ? id : unk_id_;
}

std::optional<std::int32_t> SentencePieceTokenizer::token_to_id(std::string_view token) const {
  const std::int32_t id = find(token);
  if (id == unk_id_ && token != text(unk_id_)) return std::nullopt;
  return id;
}

std::optional<std::string> SentencePieceTokenizer::id_to_token(std::int32_t id) const {
  if (id < 0 || id >= end_id()) return std::nullopt;
  return std::string(text(id));
}

Affixes SentencePieceTokenizer::affixes() const {
  Affixes affixes;
  if (special_ids_.bos) affixes.before.push_back(*special_ids_.bos);
  return affixes;
}

std::unique_ptr<Detokenizer> SentencePieceTokenizer::detokenizer(SpecialTokens,
                                                                 std::unique_ptr<DecodeStage> next) const {
  return make_sentencepiece_detokenizer(*this, std::move(next));
}

void SentencePieceTokenizer::encode(std::string_view text, std::vector<std::int32_t>& ids) const {
  const std::string normalized = normalizer_->normalize(text);
  if (model_type_ == SentencePieceFile::ModelType::unigram) {
    encode_unigram(normalized, ids);
    return;
  }
  EncodeWorkspace space(normalized.size());
  const std::string_view whole = normalized;
  std::vector<std::int32_t> word_ids;
  for (std::size_t at = 0; at < whole.size();) {
    const std::size_t end = cuts_at_metaspace_ ? next_metaspace_word(whole, at) : whole.size();
    word_ids.clear();
    append_cached(space.cache, whole.substr(at, end - at), word_ids,
                  [&](std::string_view word, std::vector<std::int32_t>& out) { encode_bpe(word, space, out); });
    append_joining_unknown(word_ids, ids);
    at = end;
  }
}

void SentencePieceTokenizer::encode_bpe(std::string_view text, EncodeWorkspace& space,
                                        std::vector<std::int32_t>& ids) const {
  UnusedMerges unused;
  split_symbols(text, space.symbols);
  const auto rule = [&](const Symbol& left, const Symbol& right) { return merge(text, left, right, unused); };
  // Which merge into an unused piece is the last depends on the order in which the pairs are looked at.
  if (has_unused_)
    merge_with_heap(space.symbols, space.merging, rule);
  else
    merge_symbols(space.symbols, space.merging, rule);
  for (const Symbol& symbol : space.symbols) append_resegmented(text.substr(symbol.begin, symbol.size), unused, ids);
}

void SentencePieceTokenizer::split_symbols(std::string_view text, std::vector<Symbol>& symbols) const {
  symbols.clear();
  for (std::size_t at = 0; at < text.size();) {
    std::size_t size = 0;
    if (user_defined_.starts(text[at])) size = user_defined_.longest_prefix(text.substr(at)).size;
    const bool frozen = size > 0;
    if (!frozen) size = decode_valid_utf8(text, at).size;
    symbols.push_back(
        {frozen ? frozen_symbol : free_symbol, static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(size)});
    at += size;
  }
}

MergeCandidate SentencePieceTokenizer::merge(std::string_view text, const Symbol& left, const Symbol& right,
                                             UnusedMerges& unused) const {
  if (left.id == frozen_symbol || right.id == frozen_symbol) return {};
  const std::string_view piece = text.substr(left.begin, std::size_t{left.size} + right.size);
  const std::int32_t id = pieces_.find(piece);
  if (id < 0) return {};
  if (has_unused_ && type(id) == PieceType::unused) unused[piece] = left.size;
  return {order_of(scores_[static_cast<std::size_t>(id)]), free_symbol};
}

/// An unused piece is taken apart into what it was merged from.
void SentencePieceTokenizer::append_resegmented(std::string_view piece, const UnusedMerges& unused,
                                                std::vector<std::int32_t>& ids) const {
  std::vector<std::string_view> pending{piece};
  while (!pending.empty()) {
    const std::string_view part = pending.back();
    pending.pop_back();
    const std::int32_t id = find(part);
    const auto halves = type(id) == PieceType::unused ? unused.find(part) : unused.end();
    if (halves == unused.end()) {
      append_piece(part, id, ids);
      continue;
    }
    pending.push_back(part.substr(halves->second));
    pending.push_back(part.substr(0, halves->second));
  }
}

void SentencePieceTokenizer::append_piece(std::string_view piece, std::int32_t id,
                                          std::vector<std::int32_t>& ids) const {
  if (id != unk_id_ || !byte_fallback_) {
    if (id != unk_id_ || ids.empty() || ids.back() != unk_id_) ids.push_back(id);
    return;
  }
  for (const char byte : piece) ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
}

/// Unknown pieces in a row are one, also across words.
void SentencePieceTokenizer::append_joining_unknown(const std::vector<std::int32_t>& from,
                                                    std::vector<std::int32_t>& ids) const {
  const bool joins = !from.empty() && !ids.empty() && from.front() == unk_id_ && ids.back() == unk_id_;
  ids.insert(ids.end(), from.begin() + (joins ? 1 : 0), from.end());
}

void SentencePieceTokenizer::encode_unigram(std::string_view text, std::vector<std::int32_t>& ids) const {
  const auto score = [&](std::int32_t id, std::size_t bytes) -> float {
    // A user-defined piece gets a bonus that makes it always win.
    if (type(id) == PieceType::user_defined) return static_cast<float>(static_cast<float>(bytes) * max_score_ - 0.1);
    return scores_[static_cast<std::size_t>(id)];
  };
  const auto unused = [&](std::int32_t id) { return type(id) == PieceType::unused; };
  const float unknown_score = min_score_ - unknown_penalty;
  std::vector<std::int32_t> found;
  for (const Segment& segment : best_segmentation<float>(text, trie_, score, unknown_score, unused))
    append_piece(text.substr(segment.begin, segment.end - segment.begin),
                 segment.id == ByteTrie::none ? unk_id_ : segment.id, found);
  append_joining_unknown(found, ids);
}

std::unique_ptr<const TokenizerBackend> parse_sentencepiece(std::string_view bytes, std::string_view source) {
  return std::make_unique<SentencePieceTokenizer>(parse_sentencepiece_file(bytes, source), source);
}

}  // namespace mamba2
