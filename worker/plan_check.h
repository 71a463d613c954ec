// Checks every number of a plan against what the stage was loaded for: nothing from the wire
// becomes an index unchecked. What a plan says of slots that were admitted before it, the stage
// itself holds against what it keeps of them.
#pragma once

#include <cstdint>

#include "core/base/status.h"
#include "core/sched/step_plan.h"

namespace penstock {

// What bounds a plan.
struct PlanLimits {
  int64_t max_tokens = 0;      // of one plan
  int64_t max_sequences = 0;   // rows of one plan; also slots
  int64_t context_length = 0;  // positions
  int64_t num_blocks = 0;
  int64_t vocab_size = 0;
};

// Errors: FAILED_PRECONDITION with the row or the admission and what is wrong with it.
absl::Status CheckPlan(const StepPlan& plan, const PlanLimits& limits);

}  // namespace penstock
