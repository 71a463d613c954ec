// Sequence: one request as the scheduler sees it. Plain values, changed by the Scheduler only.
// Thread rule: one thread, the scheduler's.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/kv_block.h"
#include "core/base/sampling_params.h"
#include "core/base/siphash.h"

namespace penstock {

using SequenceId = int64_t;

inline constexpr int kMostPreemptions = 3;  // of one sequence

struct Sequence {
  SequenceId id = 0;
  int64_t arrival = 0;          // counts the sequences; kept when it is preempted
  std::vector<int32_t> tokens;  // prompt, then what was committed
  int64_t prompt_tokens = 0;
  int64_t max_tokens = 0;  // to generate
  SamplingParams sampling;
  int32_t priority = 0;
  int32_t tenant = 0;

  int32_t slot = -1;  // -1: waiting
  uint32_t generation = 0;
  int64_t admission = 0;        // counts the admissions: who was let in first
  std::vector<int32_t> blocks;  // in the order of positions
  std::vector<Hash128> keys;    // of the prefix cache, of as many full blocks as were asked for
  int64_t prefix_blocks = 0;    // of these: from the prefix cache, when it was let in
  int64_t entered = 0;          // blocks that were offered to the prefix cache, or came from it
  // Positions that committed plans have fed, and all plans. Past tokens.size() - 1 a position feeds
  // what a plan in flight will sample.
  int64_t computed = 0;
  int64_t planned = 0;
  int64_t ahead = 0;         // samples in flight
  uint64_t last_plan = 0;    // that holds a row of it
  uint64_t sample_plan = 0;  // the last one that samples it
  int64_t targets_told = 0;  // log-probabilities that were committed, of prompt_tokens - 1
  bool started = false;      // has had a row
  int part = -1;             // of its answer that it has come to (core/sched/answer_length.h)
  int preemptions = 0;       // for lack of blocks
  bool suspect = false;      // runs alone

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t generated() const { return size() - prompt_tokens; }
  // Its next row feeds the one token sampled last; else it feeds tokens that were there before.
  bool decoding() const { return ahead > 0 || (generated() > 0 && planned == size() - 1); }
  // Log-probabilities of the prompt that are still to be told.
  bool wants_targets() const {
    return sampling.prompt_logprobs >= 0 && targets_told < prompt_tokens - 1;
  }
  // Has been preempted often enough: runs with its whole need reserved.
  bool pinned() const { return preemptions == kMostPreemptions; }
  bool RanksBelow(const Sequence& other) const {
    return priority != other.priority ? priority < other.priority : arrival > other.arrival;
  }
  // The last token that is generated is never fed, so it needs no KV.
  int64_t positions_needed() const { return prompt_tokens + max_tokens - 1; }
  int64_t blocks_needed() const { return BlocksFor(positions_needed()); }
};

}  // namespace penstock
