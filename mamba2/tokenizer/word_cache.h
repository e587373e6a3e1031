#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace mamba2 {

/// Ids of words met before in one call; a later word may take an earlier one's place.  Views the words, which must
/// outlive it.
class WordCache {
 public:
  /// Longer words come too seldom to be worth a place.
  static constexpr std::size_t max_word_bytes = 48;

  /// text_bytes: of the text to come, from which the number of places follows.
  explicit WordCache(std::size_t text_bytes)
      : places_(std::bit_ceil(std::clamp<std::size_t>(text_bytes / 8, 16, 1 << 15))) {}

  struct Place {
    std::string_view word;
    std::uint32_t begin = 0, count = 0;
  };

  /// The word's own place, or the one it would take.
  Place& place_of(std::string_view word) { return places_[std::hash<std::string_view>{}(word) & (places_.size() - 1)]; }

  std::span<const std::int32_t> ids(const Place& place) const { return {ids_.data() + place.begin, place.count}; }

  void store(Place& place, std::string_view word, std::span<const std::int32_t> ids) {
    place = {word, static_cast<std::uint32_t>(ids_.size()), static_cast<std::uint32_t>(ids.size())};
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }

 private:
  std::vector<Place> places_;
  std::vector<std::int32_t> ids_;
};

/// Appends the ids of a word to out: from the cache, or by encode(word, out) and into the cache.
template <class Encode>
void append_cached(WordCache& cache, std::string_view word, std::vector<std::int32_t>& out, const Encode& encode) {
  if (word.size() > WordCache::max_word_bytes) {
    encode(word, out);
    return;
  }
  WordCache::Place& place = cache.place_of(word);
  if (place.word == word && !word.empty()) {
    const auto known = cache.ids(place);
    out.insert(out.end(), known.begin(), known.end());
    return;
  }
  const std::size_t before = out.size();
  encode(word, out);
  cache.store(place, word, std::span(out).subspan(before));
}

}  // namespace mamba2
