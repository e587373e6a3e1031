#include "mamba2/generate/prefix_cache.h"

#include <algorithm>
#include <utility>

namespace mamba2 {

namespace {

// FNV-1a over whole ids.  Entries compare their tokens too, so a collision costs time alone.
constexpr std::uint64_t hash_start = 0xCBF29CE484222325ULL;

std::uint64_t extend_hash(std::uint64_t hash, std::span<const std::int32_t> ids) {
  for (const std::int32_t id : ids) hash = (hash ^ static_cast<std::uint32_t>(id)) * 0x100000001B3ULL;
  return hash;
}

std::size_t bytes_of(const PrefixCache::Entry& entry) {
  return entry.state->bytes() + entry.ids.size() * sizeof(std::int32_t);
}

}  // namespace

PrefixCache::Place PrefixCache::place_of(std::uint64_t hash, std::span<const std::int32_t> prefix) const {
  const auto [first, last] = by_hash_.equal_range(hash);
  const auto found =
      std::find_if(first, last, [&](const auto& held) { return std::ranges::equal(held.second->ids, prefix); });
  return found == last ? entries_.end() : found->second;
}

const PrefixCache::Entry* PrefixCache::find(std::span<const std::int32_t> ids) {
  if (entries_.empty()) return nullptr;
  const auto piece = static_cast<std::size_t>(piece_);
  Place best = entries_.end();
  std::uint64_t hash = hash_start;
  for (std::size_t end = piece; end < ids.size(); end += piece) {
    hash = extend_hash(hash, ids.subspan(end - piece, piece));
    const Place place = place_of(hash, ids.first(end));
    if (place != entries_.end()) best = place;
  }
  if (best == entries_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, best);
  return &*best;
}

bool PrefixCache::wants(std::span<const std::int32_t> prefix) const {
  if (most_bytes_ == 0 || prefix.empty() || prefix.size() % static_cast<std::size_t>(piece_) != 0) return false;
  return place_of(extend_hash(hash_start, prefix), prefix) == entries_.end();
}

void PrefixCache::insert(std::span<const std::int32_t> prefix, std::unique_ptr<RowSnapshot> state) {
  entries_.push_front({{prefix.begin(), prefix.end()}, std::move(state)});
  by_hash_.emplace(extend_hash(hash_start, prefix), entries_.begin());
  bytes_ += bytes_of(entries_.front());
  while (bytes_ > most_bytes_) drop_oldest();
}

void PrefixCache::drop_oldest() {
  const Place oldest = std::prev(entries_.end());
  const auto [first, last] = by_hash_.equal_range(extend_hash(hash_start, oldest->ids));
  by_hash_.erase(std::find_if(first, last, [&](const auto& held) { return held.second == oldest; }));
  bytes_ -= bytes_of(*oldest);
  entries_.erase(oldest);
}

}  // namespace mamba2
