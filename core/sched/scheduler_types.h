// What goes into the Scheduler and what comes out of it, plans and results apart. Plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/base/sampling_params.h"
#include "core/sched/sequence.h"
#include "core/sched/step_plan.h"

namespace penstock {

struct SchedulerOptions {
  int64_t num_blocks = 0;
  int64_t max_sequences = 64;     // slots
  int64_t max_step_tokens = 512;  // >= max_sequences, so that decodes always fit into a step
  int64_t plans_ahead = 2;        // in flight at most, >= 1
  int64_t num_stages = 1;         // as the cost model has
  bool prefix_cache = true;
  uint64_t cache_key[2] = {0, 0};  // of the keyed hash: a secret of this process
  uint64_t cache_salt = 0;         // what KV depends on beside tokens: model, KV type
  int64_t sliding_window = 0;      // the model's, for the cost model; 0: none
};

struct SequenceRequest {
  std::vector<int32_t> prompt;
  int64_t max_tokens = 0;  // to generate
  SamplingParams sampling = {};
  int32_t priority = 0;  // the higher ones go first
  int32_t tenant = 0;    // whose it is: tenants share fairly, and no cached prefixes
};

enum class SequenceEnd {
  kNone,
  kStop,    // one of its stop ids was sampled
  kLength,  // max_tokens
  kFailed,  // there was no token to choose (kNoToken)
};

// What a commit brought one sequence.
struct SequenceProgress {
  SequenceId id = 0;
  std::vector<PromptLogprob> prompt_logprobs = {};  // of this row, by position
  // A stop id included; none: the prompt goes on, or the sequence failed.
  std::optional<SampledToken> token = std::nullopt;
  SequenceEnd end = SequenceEnd::kNone;
};

// A sequence's first row is in a plan.
struct SequenceStart {
  SequenceId id = 0;
  int64_t cached_tokens = 0;  // of its prompt, from the prefix cache
};

}  // namespace penstock
