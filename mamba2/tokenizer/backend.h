#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/tokenizer/decoder.h"
#include "mamba2/tokenizer/tokenizer.h"

namespace mamba2 {

/// Ids that are put around a text's own where special tokens are asked for.
struct Affixes {
  std::vector<std::int32_t> before, after;
};

/// The special tokens a tokenizer's own file names.
struct SpecialIds {
  std::optional<std::int32_t> bos, eos, pad, unk;
};

/// Turns ids into text, in front of a stage that takes the text.
class Detokenizer {
 public:
  virtual ~Detokenizer() = default;
  /// id is in [0, end_id()).
  virtual void push(std::int32_t id) = 0;
  virtual void finish() = 0;
};

/// What tells one kind of tokenizer file from another.
class TokenizerBackend {
 public:
  virtual ~TokenizerBackend() = default;

  /// Appends the ids of valid UTF-8 text, without affixes.
  virtual void encode(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
  virtual std::unique_ptr<Detokenizer> detokenizer(SpecialTokens special, std::unique_ptr<DecodeStage> next) const = 0;
  virtual Affixes affixes() const = 0;
  virtual SpecialIds special_ids() const = 0;
  /// One past the largest id.
  virtual std::int32_t end_id() const = 0;
  virtual std::optional<std::int32_t> token_to_id(std::string_view token) const = 0;
  virtual std::optional<std::string> id_to_token(std::int32_t id) const = 0;
};

/// Both throw Error that starts with source.
std::unique_ptr<const TokenizerBackend> parse_tokenizer_json(std::string_view text, std::string_view source);
std::unique_ptr<const TokenizerBackend> parse_sentencepiece(std::string_view bytes, std::string_view source);

}  // namespace mamba2
