#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "mamba2/generate/decoder.h"

namespace mamba2 {

/// States at the piece boundaries of earlier prompts, so that a prompt which begins as one of them starts there.  Holds
/// at most so many bytes; what was not used for the longest time goes first.
class PrefixCache {
 public:
  /// piece: prefixes are multiples of it long.  most_bytes 0: holds nothing.
  PrefixCache(std::int64_t piece, std::size_t most_bytes) : piece_(piece), most_bytes_(most_bytes) {}

  struct Entry {
    std::vector<std::int32_t> ids;
    std::unique_ptr<RowSnapshot> state;
  };

  /// The longest prefix of ids held that leaves at least one token to feed; null where there is none.  Valid until the
  /// next insert().
  const Entry* find(std::span<const std::int32_t> ids);
  /// Whether insert() would take this prefix: it is not held already, and the cache is in use.
  bool wants(std::span<const std::int32_t> prefix) const;
  void insert(std::span<const std::int32_t> prefix, std::unique_ptr<RowSnapshot> state);

  std::size_t bytes() const { return bytes_; }

 private:
  using Place = std::list<Entry>::iterator;

  /// Of a prefix, by its hash; entries_.end() where it is not held.
  Place place_of(std::uint64_t hash, std::span<const std::int32_t> prefix) const;
  void drop_oldest();

  std::int64_t piece_;
  std::size_t most_bytes_;
  std::size_t bytes_ = 0;
  mutable std::list<Entry> entries_;  // the last used first
  std::unordered_multimap<std::uint64_t, Place> by_hash_;
};

}  // namespace mamba2
