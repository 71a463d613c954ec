// MergeList: symbols in a row, of which neighbours merge, the best pair first and the leftmost of
// equals, until no pair can. A list linked by indices and a heap of the pairs: O(n log n).
// Not thread-safe; kept from word to word so that the memory is reused.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <tuple>
#include <vector>

namespace penstock {

// `Symbol` is what a neighbour is known by: a token id, or an id and a stretch of text.
template <typename Symbol>
class MergeList {
 public:
  // What two neighbours become. The lowest key merges first.
  struct Merge {
    double key;
    Symbol merged;
  };

  void Clear() { nodes_.clear(); }
  void Append(const Symbol& symbol) {
    const auto at = static_cast<int64_t>(nodes_.size());
    nodes_.push_back({symbol, at - 1, at + 1});
  }

  // `find(left, right)` gives an optional Merge: none for neighbours that stay apart.
  // `on_pair(left, right, merge)` is told of each pair that could merge, when it first becomes one.
  template <typename Find, typename OnPair>
  void MergeAll(const Find& find, const OnPair& on_pair) {
    const auto end = static_cast<int64_t>(nodes_.size());
    const auto find_at = [&](int64_t left) -> std::optional<Merge> {
      if (left < 0 || nodes_[left].next == end) return std::nullopt;
      return find(nodes_[left].symbol, nodes_[nodes_[left].next].symbol);
    };
    const auto offer = [&](int64_t left) {
      const std::optional<Merge> merge = find_at(left);
      if (!merge) return false;
      on_pair(nodes_[left].symbol, nodes_[nodes_[left].next].symbol, *merge);
      heap_.push_back({merge->key, left});
      return true;
    };
    heap_.clear();
    for (int64_t left = 0; left < end; ++left) offer(left);
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    while (!heap_.empty()) {
      const Candidate best = heap_.front();
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      heap_.pop_back();
      Node& left = nodes_[best.left];
      // An earlier merge may have taken either half. What is there now may merge as well as what
      // was, and is as good: then this is its turn.
      if (left.next == kGone) continue;
      const std::optional<Merge> still = find_at(best.left);
      if (!still || still->key != best.key) continue;

      left.symbol = still->merged;
      Node& right = nodes_[left.next];
      left.next = right.next;
      right.next = kGone;
      if (left.next != end) nodes_[left.next].previous = best.left;
      for (const int64_t pair : {left.previous, best.left}) {
        if (offer(pair)) std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
      }
    }
  }

  template <typename Find>
  void MergeAll(const Find& find) {
    MergeAll(find, [](const Symbol&, const Symbol&, const Merge&) {});
  }

  // The symbols that are left, in order.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    const auto end = static_cast<int64_t>(nodes_.size());
    for (int64_t at = 0; at < end; at = nodes_[at].next) visit(nodes_[at].symbol);
  }

 private:
  static constexpr int64_t kGone = -1;

  struct Node {
    Symbol symbol;
    int64_t previous;
    int64_t next;  // kGone once it has become part of its left neighbour
  };
  // A pair that could merge at `left` when this was made.
  struct Candidate {
    double key;
    int64_t left;
    bool operator>(const Candidate& other) const {
      return std::tie(key, left) > std::tie(other.key, other.left);
    }
  };

  std::vector<Node> nodes_;
  std::vector<Candidate> heap_;
};

}  // namespace penstock
