// WaitQueue: the sequences that wait, in the order in which they are let in: by priority, within it
// the preempted ones first, then by arrival. Borrows the sequences.
// Thread rule: one thread, the scheduler's.
#pragma once

#include <cstdint>
#include <set>
#include <tuple>

#include "core/sched/sequence.h"

namespace penstock {

class WaitQueue {
 public:
  // REQUIRES: it does not wait yet; its priority and `started` stay while it waits.
  void Push(Sequence& sequence);
  // REQUIRES: it waits.
  void Remove(Sequence& sequence);
  // The one to be let in next; nullptr: none waits.
  Sequence* Head() const { return order_.empty() ? nullptr : std::get<3>(*order_.begin()); }

  int64_t size() const { return static_cast<int64_t>(order_.size()); }
  int64_t tokens() const { return tokens_; }  // prompt + max_tokens over all
  bool Holds(const Sequence& sequence) const;

 private:
  using Key = std::tuple<int64_t, bool, int64_t, Sequence*>;
  static Key KeyOf(const Sequence& sequence);

  std::set<Key> order_;
  int64_t tokens_ = 0;
};

}  // namespace penstock
