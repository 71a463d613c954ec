#include "core/sched/wait_queue.h"

#include "core/base/check.h"

namespace penstock {

WaitQueue::Key WaitQueue::KeyOf(const Sequence& sequence) {
  return {-int64_t{sequence.priority}, !sequence.started, sequence.arrival,
          const_cast<Sequence*>(&sequence)};
}

void WaitQueue::Push(Sequence& sequence) {
  PENSTOCK_CHECK(order_.insert(KeyOf(sequence)).second);
  tokens_ += sequence.prompt_tokens + sequence.max_tokens;
}

void WaitQueue::Remove(Sequence& sequence) {
  PENSTOCK_CHECK_EQ(order_.erase(KeyOf(sequence)), size_t{1});
  tokens_ -= sequence.prompt_tokens + sequence.max_tokens;
}

bool WaitQueue::Holds(const Sequence& sequence) const { return order_.count(KeyOf(sequence)) != 0; }

}  // namespace penstock
