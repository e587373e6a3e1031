#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/generate/generation_config.h"
#include "mamba2/generate/text_decoder.h"

namespace mamba2 {

/// Why a text ended: an end token; max_length, max_new_tokens or max_time; a stop string; the caller's wish.
enum class FinishReason : std::uint8_t { eos, length, stop, cancelled };

/// "eos", "length", "stop", "cancelled"
std::string_view name(FinishReason reason);

/// Finds stop strings at the end of a token sequence, also where they begin in an earlier token or in the prompt, or
/// end within the last token.
class StopStrings {
 public:
  /// make_text_decoder gives special tokens their text.
  StopStrings(std::vector<std::string> strings, MakeTextDecoder make_text_decoder);

  /// True where the text of ids and next holds a stop string that the text of ids alone does not complete.
  bool completed_by(std::span<const std::int32_t> ids, std::int32_t next) const;

 private:
  std::vector<std::string> strings_;
  MakeTextDecoder make_text_decoder_;
  std::size_t longest_ = 0;  // bytes
};

/// When a sequence ends.  max_time runs from the construction.
class Stopping {
 public:
  /// config is validated; make_text_decoder may be empty where config has no stop_strings, else Error; cancel may be
  /// null.
  Stopping(const GenerationConfig& config, MakeTextDecoder make_text_decoder, const std::atomic<bool>* cancel);

  /// Whether and why the sequence ids (prompt included) ends with the token next.
  std::optional<FinishReason> after(std::span<const std::int32_t> ids, std::int32_t next,
                                    std::int64_t max_length) const;
  /// The caller wants no more.
  bool cancelled() const { return cancel_ != nullptr && cancel_->load(std::memory_order_relaxed); }

 private:
  std::vector<std::int32_t> eos_;
  std::optional<StopStrings> strings_;
  std::optional<std::chrono::steady_clock::time_point> deadline_;
  const std::atomic<bool>* cancel_;
};

}  // namespace mamba2
