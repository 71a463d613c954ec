// KvForecast: how many blocks a set of sequences will need at most, if each grows by a token a step
// until its end and then gives back all it has. The sum of what they need in the end is never
// needed at once: the sum is greatest just before one of them ends.
// After Gong et al., "Past-Future Scheduler for LLM Serving under SLA Guarantees", ASPLOS 2025.
// Thread rule: one thread, the scheduler's.
#pragma once

#include <cstdint>
#include <vector>

namespace penstock {

class KvForecast {
 public:
  void Clear() { each_.clear(); }
  // A sequence with so many positions in blocks of its own and `rest` to come. REQUIRES: both >= 0.
  void Add(int64_t positions, int64_t rest) { each_.push_back({positions, rest, true}); }
  // One that has blocks for all `positions` from the start; it ends in `rest` steps.
  void AddWhole(int64_t positions, int64_t rest) { each_.push_back({positions, rest, false}); }
  // Over all that were added.
  int64_t PeakBlocks();

 private:
  struct Future {
    int64_t positions = 0;
    int64_t rest = 0;
    bool grows = true;
  };
  std::vector<Future> each_;
};

}  // namespace penstock
