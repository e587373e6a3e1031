#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mamba2 {

/// The most tokens a vocabulary may hold and the largest id + 1; real ones stay under 300 000.
inline constexpr std::int64_t max_vocabulary = 1 << 20;

/// Texts of tokens and their ids, both unique; found by either.
class TokenTable {
 public:
  enum class Added { yes, text_known, id_taken };

  /// Makes room for that many tokens.
  void reserve(std::size_t tokens);

  /// Throws Error for an id outside [0, max_vocabulary).
  Added add(std::string_view text, std::int32_t id);

  /// -1 where no token has that text.
  std::int32_t find(std::string_view text) const;

  /// Nothing where no token has that id.
  std::optional<std::string_view> text(std::int32_t id) const;

  std::size_t size() const { return entries_.size(); }
  /// One past the largest id.
  std::int32_t end_id() const { return static_cast<std::int32_t>(entry_of_id_.size()); }
  std::size_t longest() const { return longest_; }

 private:
  struct Entry {
    std::uint32_t begin, size;
    std::int32_t id;
  };

  std::string_view text_of(const Entry& entry) const { return {texts_.data() + entry.begin, entry.size}; }
  std::size_t slot_of(std::string_view text) const;
  void rehash(std::size_t slots);

  std::string texts_;
  std::vector<Entry> entries_;
  std::vector<std::int32_t> slots_;        // open addressing, a power of two; index into entries_ or -1
  std::vector<std::int32_t> entry_of_id_;  // index into entries_ or -1
  std::size_t longest_ = 0;
};

}  // namespace mamba2
