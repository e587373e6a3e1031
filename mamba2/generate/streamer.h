#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/generate/text_decoder.h"

namespace mamba2 {

/// Hears of tokens as they are generated; `result` is the place in GenerateOutput::results.  Called by generate()'s
/// thread.  With beams the tokens come when the search has ended.
class BaseStreamer {
 public:
  virtual ~BaseStreamer() = default;
  /// Before the first new token of a result.
  virtual void prompt(std::size_t result, std::span<const std::int32_t> ids) = 0;
  virtual void put(std::size_t result, std::span<const std::int32_t> ids) = 0;
  virtual void end(std::size_t result) = 0;
};

/// Whether TextStreamer shows the prompt.
enum class PromptText : std::uint8_t { shown, skipped };

/// Passes on the text of one result as it becomes certain; others are an Error.  Pieces end to end are the text.
class TextStreamer : public BaseStreamer {
 public:
  /// on_text gets each piece, never an empty one.
  TextStreamer(MakeTextDecoder make_text_decoder, std::function<void(std::string_view)> on_text,
               PromptText prompt_text = PromptText::skipped);

  /// Text that may be the beginning of one of these is held back, and dropped from where one stands to the end.
  void hide_from(std::vector<std::string> stop_strings);

  void prompt(std::size_t result, std::span<const std::int32_t> ids) override;
  void put(std::size_t result, std::span<const std::int32_t> ids) override;
  void end(std::size_t result) override;

 private:
  void pass_on(std::string_view text);

  MakeTextDecoder make_text_decoder_;
  std::function<void(std::string_view)> on_text_;
  PromptText prompt_text_;
  std::vector<std::string> stop_strings_;
  std::unique_ptr<TextDecoder> text_decoder_;
  std::string held_;     // may be the beginning of a stop string
  bool hidden_ = false;  // a stop string has come
};

}  // namespace mamba2
