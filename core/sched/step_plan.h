// All that crosses between the front end and a stage: numbered, self-contained plans one way,
// results the other. Plain values and integers only; proto/worker_codec.h puts them on the wire.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/sampling_params.h"

namespace penstock {

// What a stage keeps of a sequence, by slot. Sent once, in the plan that first uses the slot; a
// new epoch sends all again.
struct Admission {
  int32_t slot = 0;
  uint32_t generation = 0;  // counts the slot's users; a row of another generation is refused
  SamplingParams sampling;
};

// One sequence's part of a step: `tokens` are fed at positions position, position + 1, ...
struct PlanRow {
  int32_t slot = 0;
  uint32_t generation = 0;
  int64_t position = 0;
  std::vector<int32_t> tokens;
  std::vector<int32_t> blocks;  // the sequence's KV blocks, covering all positions up to the last
  bool sample = false;          // sample the token that follows the last one
};

struct StepPlan {
  uint64_t number = 0;
  uint32_t epoch = 0;
  std::vector<Admission> admissions;
  std::vector<PlanRow> rows;

  int64_t num_tokens() const {
    int64_t sum = 0;
    for (const PlanRow& row : rows) sum += static_cast<int64_t>(row.tokens.size());
    return sum;
  }
};

// A token sampled for a row of the plan.
struct SampledToken {
  int32_t slot = 0;
  uint32_t generation = 0;
  int64_t position = 0;  // where this token stands in the sequence
  int32_t token = 0;
  float logprob = 0;  // natural log, of the model's own distribution
};

struct StepResult {
  uint64_t number = 0;
  uint32_t epoch = 0;
  std::vector<SampledToken> samples;
  int64_t compute_ns = 0;  // the stage's own measurement
};

}  // namespace penstock
