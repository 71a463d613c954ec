// Sequence: one request as the scheduler sees it. Plain values, changed by the Scheduler only.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/kv_block.h"
#include "core/base/sampling_params.h"

namespace penstock {

using SequenceId = int64_t;

struct Sequence {
  SequenceId id = 0;
  std::vector<int32_t> tokens;  // prompt, then what was committed
  int64_t prompt_tokens = 0;
  int64_t max_tokens = 0;  // to generate
  SamplingParams sampling;

  int64_t computed = 0;  // positions whose KV a committed plan has written
  int32_t slot = -1;     // -1: waiting
  uint32_t generation = 0;
  std::vector<int32_t> blocks;  // the whole need, from admission on
  uint64_t in_flight = 0;       // number of the plan that holds its row; 0: none
  bool aborted = false;         // leaves when that plan is committed

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t generated() const { return size() - prompt_tokens; }
  // Past its prompt: its next row feeds just the token sampled last.
  bool decoding() const { return computed >= prompt_tokens; }
  // The last token that is generated is never fed, so it needs no KV.
  int64_t blocks_needed() const { return BlocksFor(prompt_tokens + max_tokens - 1); }
};

}  // namespace penstock
