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

// Errors: FAILED_PRECONDITION with the row or the admission and what is wrong with it;
// UNIMPLEMENTED for a row with a mask or drafts.
absl::Status CheckPlan(const StepPlan& plan, const PlanLimits& limits);

// The order of an epoch's plans: numbered without a gap from its first one on, and no row feeds the
// token of a plan that is not of the epoch, or that more than `plans_ahead` others have followed:
// mailboxes keep it no longer. One thread at a time.
class PlanOrder {
 public:
  PlanOrder() = default;
  PlanOrder(uint32_t epoch, uint64_t first_plan, int64_t plans_ahead)
      : epoch_(epoch), first_(first_plan), next_(first_plan), plans_ahead_(plans_ahead) {}

  // Errors: FAILED_PRECONDITION with both numbers; else the plan is counted.
  absl::Status Take(const StepPlan& plan);

 private:
  uint32_t epoch_ = 0;
  uint64_t first_ = 0;
  uint64_t next_ = 0;
  int64_t plans_ahead_ = 0;
};

}  // namespace penstock
