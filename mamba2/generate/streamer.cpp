#include "mamba2/generate/streamer.h"

#include <algorithm>
#include <utility>

#include "mamba2/base/error.h"

namespace mamba2 {

namespace {

/// Where the first of the strings begins in text; npos where none is whole.
std::size_t find_first(std::string_view text, std::span<const std::string> strings) {
  std::size_t first = std::string_view::npos;
  for (const std::string& string : strings) first = std::min(first, text.find(string));
  return first;
}

/// Bytes at the end of text that one of the strings may begin with.
std::size_t possible_beginning(std::string_view text, std::span<const std::string> strings) {
  std::size_t longest = 0;
  for (const std::string& string : strings) {
    std::size_t length = std::min(text.size(), string.size() - 1);
    while (length > longest && !text.ends_with(std::string_view(string).substr(0, length))) --length;
    longest = std::max(longest, length);
  }
  return longest;
}

}  // namespace

TextStreamer::TextStreamer(MakeTextDecoder make_text_decoder, std::function<void(std::string_view)> on_text,
                           PromptText prompt_text)
    : make_text_decoder_(std::move(make_text_decoder)), on_text_(std::move(on_text)), prompt_text_(prompt_text) {}

void TextStreamer::hide_from(std::vector<std::string> stop_strings) {
  for (const std::string& stop : stop_strings) require(!stop.empty(), "a stop string is empty");
  stop_strings_ = std::move(stop_strings);
}

void TextStreamer::prompt(std::size_t result, std::span<const std::int32_t> ids) {
  require(result == 0, "TextStreamer shows one text, but there is more than one result");
  text_decoder_ = make_text_decoder_();
  held_.clear();
  hidden_ = false;
  // A skipped prompt is decoded all the same: how the first new token reads may depend on it.
  std::string text;
  for (const std::int32_t id : ids) text += text_decoder_->put(id);
  if (prompt_text_ == PromptText::shown && !text.empty()) on_text_(text);
}

void TextStreamer::put(std::size_t result, std::span<const std::int32_t> ids) {
  require(result == 0 && text_decoder_ != nullptr, "TextStreamer shows one text, and its prompt comes first");
  for (const std::int32_t id : ids) pass_on(text_decoder_->put(id));
}

void TextStreamer::end(std::size_t result) {
  require(result == 0 && text_decoder_ != nullptr, "TextStreamer shows one text, and its prompt comes first");
  pass_on(text_decoder_->finish());
  if (!hidden_ && !held_.empty()) on_text_(held_);
  held_.clear();
  text_decoder_.reset();
}

void TextStreamer::pass_on(std::string_view text) {
  if (hidden_) return;
  held_ += text;
  const std::size_t stop = find_first(held_, stop_strings_);
  hidden_ = stop != std::string::npos;
  const std::size_t certain = hidden_ ? stop : held_.size() - possible_beginning(held_, stop_strings_);
  if (certain > 0) on_text_(std::string_view(held_).substr(0, certain));
  held_.erase(0, certain);
}

}  // namespace mamba2
