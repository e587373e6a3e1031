#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mamba2 {

class Detokenizer;
class TokenizerBackend;

/// Whether encode puts the tokenizer's special tokens (a first `<s>`, say) around the text, and whether decode shows
/// the special tokens it meets.
enum class SpecialTokens { include, omit };

/// Text to token ids and back, exactly as Hugging Face tokenizers does it by a tokenizer.json and SentencePiece by its
/// .model.  Immutable; one object may serve many threads.
class Tokenizer {
 public:
  /// Reads a tokenizer.json, a SentencePiece model (tokenizer.model, tokenizer.model.v3) or the tokenizer in a GGUF
  /// file, told apart by content. Throws Error that names the file, and the field that is malformed or not supported.
  static std::unique_ptr<const Tokenizer> from_file(const std::string& path);

  /// Reads tokenizer.json, tokenizer.model or tokenizer.model.v3 of a folder, the first that is there, and of
  /// tokenizer_config.json and special_tokens_map.json which tokens are bos, eos, pad and unk, add_bos_token,
  /// add_eos_token and clean_up_tokenization_spaces.  A path to a tokenizer file counts too, with those beside it.
  /// Throws Error that lists what was looked for.
  static std::unique_ptr<const Tokenizer> from_pretrained(const std::string& path);

  /// The same from a file's bytes; source stands for its name in errors.
  static std::unique_ptr<const Tokenizer> from_bytes(std::string_view bytes, std::string_view source);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// The ids of text.  What is no UTF-8 in it counts as U+FFFD, one for each maximal ill-formed subpart, as Python's
  /// errors="replace".  Special tokens that the text spells out are found either way.  Time grows with n log n at most.
  std::vector<std::int32_t> encode(std::string_view text, SpecialTokens special) const;

  /// The text of ids, valid UTF-8.  Throws Error for an id outside [0, vocab_size()).  A SentencePiece model's control
  /// symbols have no text and never show.
  std::string decode(std::span<const std::int32_t> ids, SpecialTokens special) const;

  /// One past the largest id, added tokens included.
  std::int64_t vocab_size() const;

  std::optional<std::int32_t> bos_id() const { return bos_id_; }
  std::optional<std::int32_t> eos_id() const { return eos_id_; }
  std::optional<std::int32_t> pad_id() const { return pad_id_; }
  std::optional<std::int32_t> unk_id() const { return unk_id_; }

  std::optional<std::int32_t> token_to_id(std::string_view token) const;
  /// The token as its file writes it; nothing where no token has that id.
  std::optional<std::string> id_to_token(std::int32_t id) const;

 private:
  friend class StreamingDecoder;
  struct Settings;

  Tokenizer(std::unique_ptr<const TokenizerBackend> backend, std::string source);
  void apply(const Settings& settings);

  std::unique_ptr<const TokenizerBackend> backend_;
  std::string source_;
  std::vector<std::int32_t> before_, after_;
  std::optional<std::int32_t> bos_id_, eos_id_, pad_id_, unk_id_;
  bool cleans_up_spaces_ = false;
};

/// Decodes ids one at a time.  Every push gives the text that is final by then, never part of a UTF-8 character; all of
/// it together is what Tokenizer::decode gives for all ids.
class StreamingDecoder {
 public:
  /// tokenizer outlives the decoder.
  StreamingDecoder(const Tokenizer& tokenizer, SpecialTokens special);
  StreamingDecoder(StreamingDecoder&&) noexcept;
  StreamingDecoder& operator=(StreamingDecoder&&) noexcept;
  ~StreamingDecoder();

  /// Throws Error for an id outside [0, vocab_size()).
  std::string push(std::int32_t id);
  /// What was kept back.  No push follows.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::unique_ptr<std::string> text_;  // final, not yet given out
  std::unique_ptr<Detokenizer> detokenizer_;
};

}  // namespace mamba2
