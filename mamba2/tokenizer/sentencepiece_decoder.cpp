#include "mamba2/tokenizer/sentencepiece_decoder.h"

#include <algorithm>
#include <string>
#include <utility>

#include "mamba2/tokenizer/metaspace.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

class SentencePieceDetokenizer : public Detokenizer {
 public:
  SentencePieceDetokenizer(const SentencePieceTokenizer& tokenizer, std::unique_ptr<DecodeStage> next)
      : tokenizer_(tokenizer), next_(std::move(next)) {}

  void push(std::int32_t given) override {
    const std::string_view piece = tokenizer_.text(given);
    const std::int32_t id = tokenizer_.find(piece);
    if (tokenizer_.type(id) == PieceType::byte) {
      bytes_ += static_cast<char>(static_cast<unsigned char>(SentencePieceTokenizer::byte_of(piece)));
      write_characters();
      return;
    }
    flush_bytes();
    if (tokenizer_.type(id) == PieceType::control) return;
    if (tokenizer_.type(id) == PieceType::unknown)
      write(tokenizer_.unk_surface());
    else
      write_piece(piece);
  }

  void finish() override {
    flush_bytes();
    next_->end_token();
    next_->finish();
  }

 private:
  using PieceType = SentencePieceTokenizer::PieceType;
  using LeadingSpace = SentencePieceTokenizer::LeadingSpace;

  void write(std::string_view text) {
    if (text.empty()) return;
    has_text_ = true;
    next_->part(text);
  }

  void write_piece(std::string_view piece) {
    const auto leading = tokenizer_.leading_space();
    const bool at_start = !has_text_ && !first_space_dropped_;
    if (at_start && leading != LeadingSpace::kept && piece.starts_with(metaspace)) {
      piece.remove_prefix(metaspace.size());
      first_space_dropped_ = leading == LeadingSpace::first_dropped;
    }
    std::string text;
    while (!piece.empty()) {
      const std::size_t space = std::min(piece.find(metaspace), piece.size());
      text += piece.substr(0, space);
      piece.remove_prefix(space);
      if (piece.empty()) break;
      text += ' ';
      piece.remove_prefix(metaspace.size());
    }
    write(text);
  }

  /// Writes the characters that are complete and a U+FFFD for each byte that begins none.
  void write_characters() {
    while (!bytes_.empty() && !is_incomplete_utf8(bytes_)) {
      const CodePoint next = decode_utf8(bytes_);
      const std::size_t size = next.valid ? next.size : 1;
      write(next.valid ? std::string_view(bytes_).substr(0, size) : replacement_character);
      bytes_.erase(0, size);
    }
  }

  void flush_bytes() {
    for (; !bytes_.empty(); bytes_.erase(0, 1)) write(replacement_character);
  }

  const SentencePieceTokenizer& tokenizer_;
  std::unique_ptr<DecodeStage> next_;
  std::string bytes_;  // at most the start of one character
  bool has_text_ = false, first_space_dropped_ = false;
};

}  // namespace

std::unique_ptr<Detokenizer> make_sentencepiece_detokenizer(const SentencePieceTokenizer& tokenizer,
                                                            std::unique_ptr<DecodeStage> next) {
  return std::make_unique<SentencePieceDetokenizer>(tokenizer, std::move(next));
}

}  // namespace mamba2
