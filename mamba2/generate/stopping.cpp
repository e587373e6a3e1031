#include "mamba2/generate/stopping.h"

#include <algorithm>
#include <utility>

#include "mamba2/base/error.h"

namespace mamba2 {

std::string_view name(FinishReason reason) {
  switch (reason) {
    case FinishReason::eos: return "eos";
    case FinishReason::length: return "length";
    case FinishReason::stop: return "stop";
    case FinishReason::cancelled: return "cancelled";
  }
  return "";
}

StopStrings::StopStrings(std::vector<std::string> strings, MakeTextDecoder make_text_decoder)
    : strings_(std::move(strings)), make_text_decoder_(std::move(make_text_decoder)) {
  for (const std::string& stop : strings_) longest_ = std::max(longest_, stop.size());
}

bool StopStrings::completed_by(std::span<const std::int32_t> ids, std::int32_t next) const {
  // A token has a byte of text at least, so a stop string takes no more tokens than bytes; one more is context for
  // decoders that treat the first token of a text differently.
  const auto tail = ids.last(std::min(ids.size(), longest_ + 1));
  const auto text_decoder = make_text_decoder_();
  std::string text;
  for (const std::int32_t id : tail) text += text_decoder->put(id);
  const std::size_t before = text.size();
  text += text_decoder->put(next);
  return std::any_of(strings_.begin(), strings_.end(), [&](const std::string& stop) {
    const std::size_t first = before + 1 > stop.size() ? before + 1 - stop.size() : 0;
    return text.find(stop, first) != std::string::npos;
  });
}

Stopping::Stopping(const GenerationConfig& config, MakeTextDecoder make_text_decoder, const std::atomic<bool>* cancel)
    : eos_(config.eos_token_id.value_or(std::vector<std::int32_t>())), cancel_(cancel) {
  if (config.stop_strings && !config.stop_strings->empty()) {
    require(make_text_decoder != nullptr, "'stop_strings' needs a tokenizer");
    strings_.emplace(*config.stop_strings, std::move(make_text_decoder));
  }
  if (config.max_time) {
    constexpr double longest = 1e9;  // seconds; more would overflow the clock's count
    const std::chrono::duration<double> limit(std::min(*config.max_time, longest));
    deadline_ =
        std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(limit);
  }
}

std::optional<FinishReason> Stopping::after(std::span<const std::int32_t> ids, std::int32_t next,
                                            std::int64_t max_length) const {
  if (std::find(eos_.begin(), eos_.end(), next) != eos_.end()) return FinishReason::eos;
  if (strings_ && strings_->completed_by(ids, next)) return FinishReason::stop;
  if (std::ssize(ids) + 1 >= max_length) return FinishReason::length;
  if (deadline_ && std::chrono::steady_clock::now() > *deadline_) return FinishReason::length;
  return std::nullopt;
}

}  // namespace mamba2
