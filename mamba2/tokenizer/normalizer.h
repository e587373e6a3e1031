#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/tokenizer/regex.h"
#include "mamba2/tokenizer/unicode.h"

namespace mamba2 {

/// One step of tokenizer.json's normalizer; valid UTF-8 in and out.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual std::string apply(std::string text) const = 0;
};

using NormalizerPtr = std::unique_ptr<const Normalizer>;

NormalizerPtr make_unicode_normalizer(NormalForm form);
/// Puts text before a text that isn't empty.
NormalizerPtr make_prepend(std::string text);
NormalizerPtr make_replace(Pattern pattern, std::string content);
NormalizerPtr make_lowercase();
NormalizerPtr make_strip_accents();

/// Which ends of a text lose their white space.
struct StripEnds {
  bool left, right;
};
NormalizerPtr make_strip(StripEnds ends);

/// The steps one after another.  Throws Error where a text grows past all reason.
NormalizerPtr make_normalizer_sequence(std::vector<NormalizerPtr> steps);

}  // namespace mamba2
