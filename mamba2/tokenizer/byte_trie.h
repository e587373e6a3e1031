#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace mamba2 {

/// Strings with a value each, walked a byte at a time.
class ByteTrie {
 public:
  static constexpr std::int32_t none = -1;
  /// 2.5 M nodes of 16 bytes: five times what the largest vocabularies need.
  static constexpr std::size_t max_nodes = 2'500'000;

  ByteTrie() { roots_.fill(none); }

  /// value is 0 or more; the last one added for a text counts.  Throws Error past max_nodes.
  void add(std::string_view text, std::int32_t value);

  bool empty() const { return nodes_.empty(); }
  bool starts(char first) const { return roots_[static_cast<unsigned char>(first)] != none; }

  /// The node one byte below node (none: below the root), or none.
  std::int32_t step(std::int32_t node, char byte) const;
  /// The value of the text that ends at a node, or none.
  std::int32_t value(std::int32_t node) const { return nodes_[static_cast<std::size_t>(node)].value; }

  struct Match {
    std::size_t size = 0;
    std::int32_t value = none;
  };
  /// The longest of the strings that text starts with; value none where there is none.
  Match longest_prefix(std::string_view text) const;

 private:
  struct Node {
    std::int32_t child = none, sibling = none, value = none;
    char byte = 0;
  };

  std::int32_t child_of(std::int32_t node, char byte);

  std::array<std::int32_t, 256> roots_;
  std::vector<Node> nodes_;
};

inline std::int32_t ByteTrie::step(std::int32_t node, char byte) const {
  if (node == none) return roots_[static_cast<unsigned char>(byte)];
  std::int32_t child = nodes_[static_cast<std::size_t>(node)].child;
  while (child != none && nodes_[static_cast<std::size_t>(child)].byte != byte)
    child = nodes_[static_cast<std::size_t>(child)].sibling;
  return child;
}

}  // namespace mamba2
