#include "mamba2/tokenizer/token_table.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

constexpr std::size_t smallest_slots = 64;

}  // namespace

void TokenTable::reserve(std::size_t tokens) {
  entries_.reserve(tokens);
  const std::size_t slots = std::bit_ceil(std::max(tokens * 2, smallest_slots));
  if (slots > slots_.size()) rehash(slots);
}

TokenTable::Added TokenTable::add(std::string_view text, std::int32_t id) {
  require(id >= 0 && id < max_vocabulary, "token '{}' has id {}, expected 0 to {}", printable(text), id,
          max_vocabulary - 1);
  require(texts_.size() + text.size() <= std::numeric_limits<std::uint32_t>::max(), "the tokens' texts are over 4 GiB");
  if (entries_.size() * 2 >= slots_.size()) rehash(std::max(slots_.size() * 2, smallest_slots));
  const std::size_t slot = slot_of(text);
  if (slots_[slot] >= 0) return Added::text_known;
  const auto index = static_cast<std::size_t>(id);
  if (index < entry_of_id_.size() && entry_of_id_[index] >= 0) return Added::id_taken;
  if (index >= entry_of_id_.size()) entry_of_id_.resize(index + 1, -1);
  entry_of_id_[index] = slots_[slot] = static_cast<std::int32_t>(entries_.size());
  entries_.push_back({static_cast<std::uint32_t>(texts_.size()), static_cast<std::uint32_t>(text.size()), id});
  texts_ += text;
  longest_ = std::max(longest_, text.size());
  return Added::yes;
}

std::int32_t TokenTable::find(std::string_view text) const {
  if (slots_.empty() || text.size() > longest_) return -1;
  const std::int32_t entry = slots_[slot_of(text)];
  return entry < 0 ? -1 : entries_[static_cast<std::size_t>(entry)].id;
}

std::optional<std::string_view> TokenTable::text(std::int32_t id) const {
  if (id < 0 || id >= end_id()) return std::nullopt;
  const std::int32_t entry = entry_of_id_[static_cast<std::size_t>(id)];
  if (entry < 0) return std::nullopt;
  return text_of(entries_[static_cast<std::size_t>(entry)]);
}

std::size_t TokenTable::slot_of(std::string_view text) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = std::hash<std::string_view>{}(text)&mask;
  while (slots_[slot] >= 0 && text_of(entries_[static_cast<std::size_t>(slots_[slot])]) != text)
    slot = (slot + 1) & mask;
  return slot;
}

void TokenTable::rehash(std::size_t slots) {
  slots_.assign(slots, -1);
  for (std::size_t i = 0; i < entries_.size(); ++i)
    slots_[slot_of(text_of(entries_[i]))] = static_cast<std::int32_t>(i);
}

}  // namespace mamba2
