#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace mamba2 {

/// A stretch of the text that merging treats as one.
struct Symbol {
  std::int32_t id;      ///< token, or what the rule takes it for
  std::uint32_t begin;  ///< bytes from the start of the word
  std::uint32_t size;   ///< bytes, never 0
};

/// What two neighbours would become.  The smallest order merges first; of equals, the leftmost.
struct MergeCandidate {
  static constexpr std::uint32_t never = std::numeric_limits<std::uint32_t>::max();
  std::uint32_t order = never;
  std::int32_t id = -1;
};

/// Space for merging, kept from word to word.
struct MergeWorkspace {
  struct Link {
    std::int32_t previous, next;
  };
  struct Entry {
    std::uint64_t key;   // order, then position
    std::uint32_t size;  // of the pair when it was entered
    std::int32_t id;
    bool operator>(const Entry& other) const { return key > other.key; }
  };
  std::vector<MergeCandidate> candidates;
  std::vector<Link> links;
  std::vector<Entry> heap;
};

/// Up to here looking at every pair for every merge beats a heap.
inline constexpr std::size_t short_word_symbols = 32;

/// Byte pair encoding (Sennrich et al. 2016, section 3.2): merges neighbours, the best pair first, until rule(left,
/// right) finds none.  Quadratic: for short words.
template <class Rule>
void merge_by_scanning(std::vector<Symbol>& symbols, MergeWorkspace& space, const Rule& rule) {
  auto& candidates = space.candidates;
  candidates.resize(symbols.size());
  const auto refresh = [&](std::size_t i) {
    candidates[i] = i + 1 < symbols.size() ? rule(symbols[i], symbols[i + 1]) : MergeCandidate{};
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) refresh(i);
  while (true) {
    const auto best = std::min_element(candidates.begin(), candidates.end(),
                                       [](const auto& a, const auto& b) { return a.order < b.order; });
    if (best == candidates.end() || best->order == MergeCandidate::never) return;
    const auto at = static_cast<std::size_t>(best - candidates.begin());
    symbols[at].id = best->id;
    symbols[at].size += symbols[at + 1].size;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    candidates.erase(candidates.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    refresh(at);
    if (at > 0) refresh(at - 1);
  }
}

/// The same in O(n log n): a linked list of symbols and a heap of pairs, in which a pair that has changed since it was
/// entered shows by its size.
template <class Rule>
void merge_with_heap(std::vector<Symbol>& symbols, MergeWorkspace& space, const Rule& rule) {
  using Entry = MergeWorkspace::Entry;
  const auto count = static_cast<std::int32_t>(symbols.size());
  const auto at = [&](std::int32_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };
  auto& links = space.links;
  auto& heap = space.heap;
  links.resize(symbols.size());
  heap.clear();
  for (std::int32_t i = 0; i < count; ++i) links[static_cast<std::size_t>(i)] = {i - 1, i + 1 < count ? i + 1 : -1};
  const auto link = [&](std::int32_t i) -> MergeWorkspace::Link& { return links[static_cast<std::size_t>(i)]; };
  const auto candidate_at = [&](std::int32_t left, std::int32_t right) {
    const MergeCandidate found = rule(at(left), at(right));
    if (found.order == MergeCandidate::never) return false;
    const std::uint64_t key = std::uint64_t{found.order} << 32 | static_cast<std::uint32_t>(left);
    heap.push_back({key, at(left).size + at(right).size, found.id});
    return true;
  };
  const auto enter = [&](std::int32_t left, std::int32_t right) {
    if (left < 0 || right < 0) return;
    if (candidate_at(left, right)) std::push_heap(heap.begin(), heap.end(), std::greater<Entry>{});
  };
  for (std::int32_t i = 0; i + 1 < count; ++i) candidate_at(i, i + 1);
  std::make_heap(heap.begin(), heap.end(), std::greater<Entry>{});

  while (!heap.empty()) {
    const Entry top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), std::greater<Entry>{});
    heap.pop_back();
    const auto left = static_cast<std::int32_t>(top.key & 0xFFFFFFFFU);
    const std::int32_t right = link(left).next;
    if (at(left).size == 0 || right < 0 || at(left).size + at(right).size != top.size) continue;
    at(left).id = top.id;
    at(left).size = top.size;
    at(right).size = 0;
    link(left).next = link(right).next;
    if (link(right).next >= 0) link(link(right).next).previous = left;
    enter(link(left).previous, left);
    enter(left, link(left).next);
  }
  std::erase_if(symbols, [](const Symbol& symbol) { return symbol.size == 0; });
}

template <class Rule>
void merge_symbols(std::vector<Symbol>& symbols, MergeWorkspace& space, const Rule& rule) {
  if (symbols.size() <= short_word_symbols)
    merge_by_scanning(symbols, space, rule);
  else
    merge_with_heap(symbols, space, rule);
}

}  // namespace mamba2
