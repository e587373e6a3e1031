#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/tokenizer/regex.h"

namespace mamba2 {

/// A step of decoding that takes tokens' texts as they come and hands on what is final.  A token's text arrives in
/// parts, each whole characters, and an end.
class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  virtual void part(std::string_view text) = 0;
  virtual void end_token() = 0;
  /// No token follows.
  virtual void finish() = 0;
};

/// A step of tokenizer.json's decoder: makes the stage that does it for one text, in front of the stage that follows.
using DecodeStep = std::function<std::unique_ptr<DecodeStage>(std::unique_ptr<DecodeStage> next)>;

/// All tokens' byte-level characters become bytes, their sum UTF-8; a token with any other character is taken as it is.
DecodeStep decode_byte_level();
/// Runs of <0xNN> tokens become the text they spell, or one U+FFFD for each where they spell none.
DecodeStep decode_byte_fallback();
/// All tokens become one.
DecodeStep decode_fuse();

enum class FirstSpace { dropped, kept };
/// replacement becomes a space; every one of the first token is dropped where first says so.
DecodeStep decode_metaspace(char32_t replacement, FirstSpace first);
/// Up to `start` times content is cut from a token's front, up to `stop` times from its end.
DecodeStep decode_strip(char32_t content, std::size_t start, std::size_t stop);
DecodeStep decode_replace(std::shared_ptr<const Pattern> pattern, std::string content);
/// Tokens with a space between them: what is done where a file names no decoder.
DecodeStep decode_join_with_space();

/// The last stage: appends to out, which outlives it.
std::unique_ptr<DecodeStage> make_write_stage(std::string& out);
/// The stages of all steps, in front of next.
std::unique_ptr<DecodeStage> make_decode_stages(const std::vector<DecodeStep>& steps,
                                                std::unique_ptr<DecodeStage> next);

}  // namespace mamba2
