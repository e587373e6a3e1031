#include "mamba2/tokenizer/normalizer.h"

#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/unicode_versions.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

class UnicodeNormalizer : public Normalizer {
 public:
  explicit UnicodeNormalizer(NormalForm form) : form_(form) {}
  std::string apply(std::string text) const override { return is_ascii(text) ? text : normalize(text, form_); }

 private:
  NormalForm form_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string text) : text_(std::move(text)) {}
  std::string apply(std::string text) const override { return text.empty() ? text : text_ + text; }

 private:
  std::string text_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}

  std::string apply(std::string text) const override {
    if (text.empty()) return text;
    std::string out;
    std::size_t done = 0;
    for_each_match(pattern_, text, [&](std::size_t begin, std::size_t end) {
      out.append(text, done, begin - done);
      out += content_;
      done = end;
    });
    out.append(text, done);
    return out;
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Lowercase : public Normalizer {
 public:
  std::string apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const CodePoint next = decode_valid_utf8(text, at);
      append_lowercase(out, next.value);
      at += next.size;
    }
    return out;
  }
};

class StripAccents : public Normalizer {
 public:
  std::string apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const CodePoint next = decode_valid_utf8(text, at);
      const bool strips = is_mark(next.value) && !contains(not_yet_normalized, next.value);
      if (!strips) out.append(text, at, next.size);
      at += next.size;
    }
    return out;
  }
};

class Strip : public Normalizer {
 public:
  explicit Strip(StripEnds ends) : ends_(ends) {}

  std::string apply(std::string text) const override {
    std::size_t begin = 0, end = text.size();
    while (ends_.left && begin < end) {
      const CodePoint next = decode_valid_utf8(text, begin);
      if (!is_whitespace(next.value)) break;
      begin += next.size;
    }
    while (ends_.right && begin < end) {
      const std::size_t at = last_character(std::string_view(text).substr(0, end));
      if (!is_whitespace(decode_valid_utf8(text, at).value)) break;
      end = at;
    }
    return text.substr(begin, end - begin);
  }

 private:
  StripEnds ends_;
};

class NormalizerSequence : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<NormalizerPtr> steps) : steps_(std::move(steps)) {}

  std::string apply(std::string text) const override {
    // NFKD, what grows texts most, makes 11 bytes of one.
    const std::size_t limit = text.size() * 32 + (std::size_t{1} << 16);
    for (const auto& step : steps_) {
      text = step->apply(std::move(text));
      require(text.size() <= limit, "the normalizer makes a text grow beyond {} bytes", limit);
    }
    return text;
  }

 private:
  std::vector<NormalizerPtr> steps_;
};

}  // namespace

NormalizerPtr make_unicode_normalizer(NormalForm form) {
  return std::make_unique<UnicodeNormalizer>(form);
}

NormalizerPtr make_prepend(std::string text) {
  return std::make_unique<Prepend>(std::move(text));
}

NormalizerPtr make_replace(Pattern pattern, std::string content) {
  return std::make_unique<Replace>(std::move(pattern), std::move(content));
}

NormalizerPtr make_lowercase() {
  return std::make_unique<Lowercase>();
}

NormalizerPtr make_strip_accents() {
  return std::make_unique<StripAccents>();
}

NormalizerPtr make_strip(StripEnds ends) {
  return std::make_unique<Strip>(ends);
}

NormalizerPtr make_normalizer_sequence(std::vector<NormalizerPtr> steps) {
  return std::make_unique<NormalizerSequence>(std::move(steps));
}

}  // namespace mamba2
