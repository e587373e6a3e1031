#include "mamba2/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/byte_level.h"
#include "mamba2/tokenizer/metaspace.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

/// Fibonacci hashing (Knuth, volume 3, section 6.4): the high bits of the product are well mixed.
std::size_t mix(std::uint64_t value) {
  return static_cast<std::size_t>((value ^ value >> 29) * 0x9E3779B97F4A7C15ULL >> 32);
}

}  // namespace

void MergeTable::reserve(std::size_t merges) {
  slots_.assign(std::bit_ceil(merges * 2 + 1), Slot{});
}

void MergeTable::set(std::int32_t left, std::int32_t right, std::uint32_t rank, std::int32_t merged) {
  Slot& slot = slots_[slot_of(pair_of(left, right))];
  slot = {pair_of(left, right), {rank, merged}};
}

MergeCandidate MergeTable::find(std::int32_t left, std::int32_t right) const {
  return slots_[slot_of(pair_of(left, right))].candidate;
}

std::size_t MergeTable::slot_of(std::uint64_t pair) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = mix(pair) & mask;
  while (slots_[slot].pair != pair && slots_[slot].pair != empty) slot = (slot + 1) & mask;
  return slot;
}

Bpe::Bpe(const TokenTable& tokens, MergeTable merges, BpeOptions options)
    : tokens_(tokens), merges_(std::move(merges)), options_(std::move(options)) {
  require(!options_.words_are_bytes || can_take_bytes(tokens_, options_), "the vocabulary lacks byte-level characters");
  if (options_.unk_token) unk_id_ = tokens_.find(*options_.unk_token);
  for (unsigned byte = 0; byte < 256; ++byte)
    id_of_byte_[byte] =
        tokens_.find(options_.words_are_bytes ? byte_level_characters()[byte] : fmt::format("<0x{:02X}>", byte));
  cuts_at_metaspace_ = can_cut_at_metaspace();
}

bool Bpe::can_take_bytes(const TokenTable& tokens, const BpeOptions& options) {
  const auto& characters = byte_level_characters();
  return options.continuing_subword_prefix.empty() && options.end_of_word_suffix.empty() &&
         std::all_of(characters.begin(), characters.end(), [&](const auto& c) { return tokens.find(c) >= 0; });
}

/// A word model without a pre-tokenizer gets whole texts; where no token reaches across a metaspace they can be cut
/// there.  The metaspace must be a token, for an unknown run ends at a known character only.
bool Bpe::can_cut_at_metaspace() const {
  if (options_.words_are_bytes || tokens_.find(metaspace) < 0) return false;
  if (!options_.continuing_subword_prefix.empty() || !options_.end_of_word_suffix.empty()) return false;
  for (std::int32_t id = 0; id < tokens_.end_id(); ++id)
    if (const auto text = tokens_.text(id); text && spans_metaspace_words(*text)) return false;
  return true;
}

void Bpe::encode(std::string_view word, EncodeWorkspace& space, std::vector<std::int32_t>& out) const {
  const auto encode_new = [&](std::string_view part, std::vector<std::int32_t>& ids) { encode_part(part, space, ids); };
  if (options_.ignore_merges) {
    if (const std::int32_t id = whole_word(word, space); id >= 0) {
      out.push_back(id);
      return;
    }
  }
  if (!cuts_at_metaspace_) {
    append_cached(space.cache, word, out, encode_new);
    return;
  }
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t end = next_metaspace_word(word, at);
    append_cached(space.cache, word.substr(at, end - at), out, encode_new);
    at = end;
  }
}

std::int32_t Bpe::whole_word(std::string_view word, EncodeWorkspace& space) const {
  if (!options_.words_are_bytes) return tokens_.find(word);
  if (word.size() > tokens_.longest()) return -1;
  space.text.clear();
  for (const char byte : word) space.text += byte_level_characters()[static_cast<unsigned char>(byte)];
  return tokens_.find(space.text);
}

void Bpe::encode_part(std::string_view part, EncodeWorkspace& space, std::vector<std::int32_t>& out) const {
  auto& symbols = space.symbols;
  symbols.clear();
  if (options_.words_are_bytes)
    symbols_of_bytes(part, symbols);
  else
    symbols_of_text(part, space);
  merge_symbols(symbols, space.merging,
                [&](const Symbol& left, const Symbol& right) { return merges_.find(left.id, right.id); });
  for (const Symbol& symbol : symbols) out.push_back(symbol.id);
}

void Bpe::symbols_of_bytes(std::string_view word, std::vector<Symbol>& symbols) const {
  for (std::size_t i = 0; i < word.size(); ++i)
    symbols.push_back({id_of_byte_[static_cast<unsigned char>(word[i])], static_cast<std::uint32_t>(i), 1});
}

void Bpe::symbols_of_text(std::string_view word, EncodeWorkspace& space) const {
  auto& symbols = space.symbols;
  std::optional<Symbol> unknown;  // seen but not yet added: fuse_unk may lengthen it
  const auto add_unknown = [&] {
    if (unknown) symbols.push_back(*unknown);
    unknown.reset();
  };
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t size = decode_valid_utf8(word, at).size;
    const auto begin = static_cast<std::uint32_t>(at), bytes = static_cast<std::uint32_t>(size);
    std::string& character = space.text;
    character.clear();
    if (at > 0) character += options_.continuing_subword_prefix;
    character += word.substr(at, size);
    at += size;
    if (at == word.size()) character += options_.end_of_word_suffix;
    if (const std::int32_t id = tokens_.find(character); id >= 0) {
      add_unknown();
      symbols.push_back({id, begin, bytes});
      continue;
    }
    if (options_.byte_fallback && add_bytes(character, symbols)) continue;
    if (!options_.unk_token) continue;
    if (unknown && options_.fuse_unk) {
      unknown->size += bytes;
      continue;
    }
    add_unknown();
    unknown = Symbol{unknown_id(character), begin, bytes};
  }
  add_unknown();
}

bool Bpe::add_bytes(std::string_view character, std::vector<Symbol>& symbols) const {
  const auto id = [&](char byte) { return id_of_byte_[static_cast<unsigned char>(byte)]; };
  if (!std::all_of(character.begin(), character.end(), [&](char byte) { return id(byte) >= 0; })) return false;
  for (const char byte : character) symbols.push_back({id(byte), 0, 1});
  return true;
}

std::int32_t Bpe::unknown_id(std::string_view character) const {
  require(unk_id_ >= 0, "'{}' is no token, and neither is the unknown token '{}' of model.unk_token",
          printable(character), printable(*options_.unk_token));
  return unk_id_;
}

}  // namespace mamba2
