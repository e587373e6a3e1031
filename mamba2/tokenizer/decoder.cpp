#include "mamba2/tokenizer/decoder.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "mamba2/tokenizer/byte_level.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

using StagePtr = std::unique_ptr<DecodeStage>;

class Write : public DecodeStage {
 public:
  explicit Write(std::string& out) : out_(out) {}
  void part(std::string_view text) override { out_ += text; }
  void end_token() override {}
  void finish() override {}

 private:
  std::string& out_;
};

class ByteLevel : public DecodeStage {
 public:
  explicit ByteLevel(StagePtr next) : next_(std::move(next)) {}

  void part(std::string_view text) override { token_ += text; }

  void end_token() override {
    text_.clear();
    assembler_.push(to_bytes(token_), text_);
    token_.clear();
    if (!text_.empty()) next_->part(text_);
  }

  void finish() override {
    text_.clear();
    assembler_.finish(text_);
    if (!text_.empty()) next_->part(text_);
    next_->end_token();
    next_->finish();
  }

 private:
  static std::string to_bytes(const std::string& token) {
    std::string bytes;
    for (std::size_t at = 0; at < token.size();) {
      const CodePoint next = decode_valid_utf8(token, at);
      const int byte = byte_of_byte_level_character(next.value);
      if (byte < 0) return token;
      bytes += static_cast<char>(static_cast<unsigned char>(byte));
      at += next.size;
    }
    return bytes;
  }

  StagePtr next_;
  Utf8Assembler assembler_;
  std::string token_, text_;
};

class ByteFallback : public DecodeStage {
 public:
  explicit ByteFallback(StagePtr next) : next_(std::move(next)) {}

  void part(std::string_view text) override { token_ += text; }

  void end_token() override {
    if (const auto byte = byte_of(token_)) {
      bytes_ += *byte;
    } else {
      flush();
      hand_on(token_);
    }
    token_.clear();
  }

  void finish() override {
    flush();
    next_->finish();
  }

 private:
  static std::optional<char> byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
    // Rust's from_str_radix, which Hugging Face's decoder reads this with, takes a sign: "+F" is 15.
    const std::string_view digits = token.substr(token[3] == '+' ? 4 : 3, token[3] == '+' ? 1 : 2);
    unsigned char value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
    return static_cast<char>(value);
  }

  void flush() {
    if (bytes_.empty()) return;
    if (is_valid_utf8(bytes_)) {
      hand_on(bytes_);
    } else {
      for (std::size_t i = 0; i < bytes_.size(); ++i) hand_on(replacement_character);
    }
    bytes_.clear();
  }

  void hand_on(std::string_view token) {
    next_->part(token);
    next_->end_token();
  }

  StagePtr next_;
  std::string token_, bytes_;
};

class Fuse : public DecodeStage {
 public:
  explicit Fuse(StagePtr next) : next_(std::move(next)) {}
  void part(std::string_view text) override { next_->part(text); }
  void end_token() override {}
  void finish() override {
    next_->end_token();
    next_->finish();
  }

 private:
  StagePtr next_;
};

class Metaspace : public DecodeStage {
 public:
  Metaspace(char32_t replacement, FirstSpace first, StagePtr next) : next_(std::move(next)) {
    append_utf8(replacement_, replacement);
    drops_ = first == FirstSpace::dropped;
  }

  void part(std::string_view text) override {
    text_.clear();
    for (std::size_t done = 0; done < text.size();) {
      const std::size_t found = std::min(text.find(replacement_, done), text.size());
      text_ += text.substr(done, found - done);
      if (found < text.size() && !drops_) text_ += ' ';
      done = found + replacement_.size();
    }
    next_->part(text_);
  }

  void end_token() override {
    drops_ = false;
    next_->end_token();
  }

  void finish() override { next_->finish(); }

 private:
  StagePtr next_;
  std::string replacement_, text_;
  bool drops_;
};

/// Characters that may turn out to be the token's last ones are held back.
class Strip : public DecodeStage {
 public:
  Strip(char32_t content, std::size_t start, std::size_t stop, StagePtr next)
      : next_(std::move(next)), start_(start), stop_(stop) {
    append_utf8(content_, content);
  }

  void part(std::string_view text) override {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = decode_valid_utf8(text, at).size;
      character(text.substr(at, size));
      at += size;
    }
  }

  void end_token() override {
    repeat(held_ - std::min(held_, stop_));
    held_ = stripped_ = 0;
    begun_ = false;
    next_->end_token();
  }

  void finish() override { next_->finish(); }

 private:
  void character(std::string_view text) {
    if (text != content_) {
      repeat(std::exchange(held_, 0));
      next_->part(text);
      begun_ = true;
    } else if (!begun_ && stripped_ < start_) {
      ++stripped_;
    } else {
      begun_ = true;
      ++held_;
      if (held_ > stop_) {
        next_->part(content_);
        --held_;
      }
    }
  }

  void repeat(std::size_t times) {
    for (std::size_t i = 0; i < times; ++i) next_->part(content_);
  }

  StagePtr next_;
  std::string content_;
  std::size_t start_, stop_;
  std::size_t stripped_ = 0, held_ = 0;
  bool begun_ = false;
};

/// A text to be replaced may begin where the token so far ends; a regular expression may look at anything.
class Replace : public DecodeStage {
 public:
  Replace(std::shared_ptr<const Pattern> pattern, std::string content, StagePtr next)
      : next_(std::move(next)), pattern_(std::move(pattern)), content_(std::move(content)) {}

  void part(std::string_view text) override {
    held_ += text;
    if (const auto* literal = std::get_if<std::string>(pattern_.get())) emit(held_.size() - overlap(*literal));
  }

  void end_token() override {
    emit(held_.size());
    next_->end_token();
  }

  void finish() override { next_->finish(); }

 private:
  /// Bytes at the end of what is held, past its last match, that the literal may start with.
  std::size_t overlap(const std::string& literal) const {
    std::size_t done = 0;
    for_each_match(*pattern_, held_, [&](std::size_t, std::size_t end) { done = end; });
    const std::string_view rest = std::string_view(held_).substr(done);
    for (std::size_t size = std::min(literal.size() - 1, rest.size()); size > 0; --size)
      if (literal.starts_with(rest.substr(rest.size() - size))) return size;
    return 0;
  }

  void emit(std::size_t size) {
    const std::string_view text = std::string_view(held_).substr(0, size);
    if (text.empty()) return;
    std::string out;
    std::size_t done = 0;
    for_each_match(*pattern_, text, [&](std::size_t begin, std::size_t end) {
      out += text.substr(done, begin - done);
      out += content_;
      done = end;
    });
    out += text.substr(done);
    held_.erase(0, size);
    next_->part(out);
  }

  StagePtr next_;
  std::shared_ptr<const Pattern> pattern_;
  std::string content_, held_;
};

class JoinWithSpace : public DecodeStage {
 public:
  explicit JoinWithSpace(StagePtr next) : next_(std::move(next)) {}

  void part(std::string_view text) override {
    if (std::exchange(owes_space_, false)) next_->part(" ");
    next_->part(text);
  }
  void end_token() override {
    if (owes_space_) next_->part(" ");
    owes_space_ = true;
  }
  void finish() override {
    next_->end_token();
    next_->finish();
  }

 private:
  StagePtr next_;
  bool owes_space_ = false;
};

}  // namespace

DecodeStep decode_byte_level() {
  return [](StagePtr next) { return std::make_unique<ByteLevel>(std::move(next)); };
}

DecodeStep decode_byte_fallback() {
  return [](StagePtr next) { return std::make_unique<ByteFallback>(std::move(next)); };
}

DecodeStep decode_fuse() {
  return [](StagePtr next) { return std::make_unique<Fuse>(std::move(next)); };
}

DecodeStep decode_metaspace(char32_t replacement, FirstSpace first) {
  return [=](StagePtr next) { return std::make_unique<Metaspace>(replacement, first, std::move(next)); };
}

DecodeStep decode_strip(char32_t content, std::size_t start, std::size_t stop) {
  return [=](StagePtr next) { return std::make_unique<Strip>(content, start, stop, std::move(next)); };
}

DecodeStep decode_replace(std::shared_ptr<const Pattern> pattern, std::string content) {
  return [pattern = std::move(pattern), content = std::move(content)](StagePtr next) {
    return std::make_unique<Replace>(pattern, content, std::move(next));
  };
}

DecodeStep decode_join_with_space() {
  return [](StagePtr next) { return std::make_unique<JoinWithSpace>(std::move(next)); };
}

StagePtr make_write_stage(std::string& out) {
  return std::make_unique<Write>(out);
}

StagePtr make_decode_stages(const std::vector<DecodeStep>& steps, StagePtr next) {
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) next = (*step)(std::move(next));
  return next;
}

}  // namespace mamba2
