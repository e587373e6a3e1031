#include "mamba2/tokenizer/byte_trie.h"

#include "mamba2/base/error.h"

namespace mamba2 {

void ByteTrie::add(std::string_view text, std::int32_t value) {
  if (text.empty()) return;
  std::int32_t node = none;
  for (const char byte : text) node = child_of(node, byte);
  nodes_[static_cast<std::size_t>(node)].value = value;
}

std::int32_t ByteTrie::child_of(std::int32_t node, char byte) {
  const std::int32_t found = step(node, byte);
  if (found != none) return found;
  require(nodes_.size() < max_nodes, "the tokens need more than {} trie nodes", max_nodes);
  const auto made = static_cast<std::int32_t>(nodes_.size());
  std::int32_t& first =
      node == none ? roots_[static_cast<unsigned char>(byte)] : nodes_[static_cast<std::size_t>(node)].child;
  const Node added{.sibling = node == none ? none : first, .byte = byte};
  first = made;
  nodes_.push_back(added);
  return made;
}

ByteTrie::Match ByteTrie::longest_prefix(std::string_view text) const {
  Match best;
  std::int32_t node = none;
  for (std::size_t i = 0; i < text.size(); ++i) {
    node = step(node, text[i]);
    if (node == none) break;
    if (value(node) != none) best = {i + 1, value(node)};
  }
  return best;
}

}  // namespace mamba2
