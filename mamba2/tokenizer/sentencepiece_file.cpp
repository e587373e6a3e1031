#include "mamba2/tokenizer/sentencepiece_file.h"

#include <cmath>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/protobuf.h"
#include "mamba2/tokenizer/token_table.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

using File = SentencePieceFile;
using Wire = ProtoField::Wire;

/// Real models are a few MB.
constexpr std::size_t max_sentencepiece_bytes = std::size_t{64} << 20;

/// Text and wire type of one known field; others of the schema don't concern encoding.
class Message {
 public:
  Message(std::string_view message, std::string what) : what_(std::move(what)), reader_(message, what_) {}

  std::optional<ProtoField> next() { return reader_.next(); }

  void expect(const ProtoField& field, Wire wire) const {
    require(field.wire == wire, "{}: field {} has wire type {}, expected {}", what_, field.number,
            static_cast<int>(field.wire), static_cast<int>(wire));
  }
  bool flag(const ProtoField& field) const {
    expect(field, Wire::varint);
    return field.value != 0;
  }
  std::string_view bytes(const ProtoField& field) const {
    expect(field, Wire::bytes);
    return field.bytes;
  }
  const std::string& what() const { return what_; }

 private:
  std::string what_;
  ProtoReader reader_;
};

File::Piece read_piece(std::string_view bytes, std::size_t index, std::string_view source) {
  Message message(bytes, fmt::format("{}: pieces[{}]", source, index));
  File::Piece piece;
  while (const auto field = message.next()) {
    switch (field->number) {
      case 1: piece.text = message.bytes(*field); break;
      case 2:
        message.expect(*field, Wire::fixed32);
        piece.score = field->as_float();
        break;
      case 3:
        message.expect(*field, Wire::varint);
        require(field->value >= 1 && field->value <= 6, "{}: type {} is unknown", message.what(), field->value);
        piece.type = static_cast<File::PieceType>(field->value);
        break;
      default: break;
    }
  }
  require(!piece.text.empty(), "{}: has no text", message.what());
  require(is_valid_utf8(piece.text), "{}: '{}' is no UTF-8", message.what(), printable(piece.text, 80));
  require(std::isfinite(piece.score), "{}: has the score {}", message.what(), piece.score);
  return piece;
}

void read_trainer(std::string_view bytes, std::string_view source, File& file) {
  Message message(bytes, fmt::format("{}: trainer_spec", source));
  while (const auto field = message.next()) {
    switch (field->number) {
      case 3:
        message.expect(*field, Wire::varint);
        require(field->value >= 1 && field->value <= 4, "{}: model_type {} is unknown", message.what(), field->value);
        file.model_type = static_cast<File::ModelType>(field->value);
        break;
      case 24: file.normalization.treat_whitespace_as_suffix = message.flag(*field); break;
      case 35: file.byte_fallback = message.flag(*field); break;
      case 44: file.unk_surface = message.bytes(*field); break;
      case 45: file.unk_piece = message.bytes(*field); break;
      case 46: file.bos_piece = message.bytes(*field); break;
      case 47: file.eos_piece = message.bytes(*field); break;
      case 48: file.pad_piece = message.bytes(*field); break;
      default: break;
    }
  }
  require(is_valid_utf8(file.unk_surface), "{}: unk_surface is no UTF-8", message.what());
}

void read_normalizer(std::string_view bytes, std::string_view source, File::Normalization& normalization) {
  Message message(bytes, fmt::format("{}: normalizer_spec", source));
  while (const auto field = message.next()) {
    switch (field->number) {
      case 2: normalization.precompiled_charsmap = message.bytes(*field); break;
      case 3: normalization.add_dummy_prefix = message.flag(*field); break;
      case 4: normalization.remove_extra_whitespaces = message.flag(*field); break;
      case 5: normalization.escape_whitespaces = message.flag(*field); break;
      default: break;
    }
  }
}

void refuse_denormalizer(std::string_view bytes, std::string_view source) {
  Message message(bytes, fmt::format("{}: denormalizer_spec", source));
  while (const auto field = message.next())
    require(field->number != 2 || message.bytes(*field).empty(), "{}: precompiled_charsmap is not supported",
            message.what());
}

}  // namespace

SentencePieceFile parse_sentencepiece_file(std::string_view bytes, std::string_view source) {
  require(bytes.size() <= max_sentencepiece_bytes, "{}: is {} bytes, expected at most {}", source, bytes.size(),
          max_sentencepiece_bytes);
  require(bytes.starts_with('\n'), "{}: is neither a tokenizer.json nor a SentencePiece model", source);
  SentencePieceFile file;
  Message message(bytes, fmt::format("{}: the SentencePiece model", source));
  while (const auto field = message.next()) {
    switch (field->number) {
      case 1:
        require(file.pieces.size() < static_cast<std::size_t>(max_vocabulary), "{}: has more than {} pieces", source,
                max_vocabulary);
        file.pieces.push_back(read_piece(message.bytes(*field), file.pieces.size(), source));
        break;
      case 2: read_trainer(message.bytes(*field), source, file); break;
      case 3: read_normalizer(message.bytes(*field), source, file.normalization); break;
      case 5: refuse_denormalizer(message.bytes(*field), source); break;
      default: break;
    }
  }
  require(!file.pieces.empty(), "{}: holds no pieces", source);
  return file;
}

}  // namespace mamba2
