// StageSlots: what a stage keeps of the sequences in its slots: what an Admission left, and on the
// last stage the token history. Plans' rows are held against it. One thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/sched/step_plan.h"
#include "worker/token_history.h"

namespace penstock {

class StageSlots {
 public:
  struct Slot {
    bool used = false;
    bool in_plan = false;  // while Admit looks through the rows
    uint32_t generation = 0;
    SamplingParams sampling;
    int64_t prompt_tokens = 0;
    TokenHistory history;  // empty unless sampling.needs_history() and the stage samples
  };

  // `samples`: the stage is the last one.
  StageSlots(int64_t slots, bool samples) : samples_(samples), slots_(static_cast<size_t>(slots)) {}

  void Reset() { slots_.assign(slots_.size(), Slot()); }

  // Takes in the plan's admissions, then holds its rows against the slots. `fed` is StepBatcher's.
  // REQUIRES: CheckPlan has let the plan through. Errors: FAILED_PRECONDITION with the slot.
  absl::Status Admit(const StepPlan& plan, std::span<const int32_t> fed);

  // Whether the sequence ends with this sample: with a stop id, or because there is no token.
  bool Ends(const SampledToken& sample) const;

  // REQUIRES: a row of a plan that Admit has let through has it.
  Slot& At(int32_t slot) { return slots_[static_cast<size_t>(slot)]; }
  const Slot& At(int32_t slot) const { return slots_[static_cast<size_t>(slot)]; }

 private:
  absl::Status CheckRow(const PlanRow& row, bool is_void);

  const bool samples_;
  std::vector<Slot> slots_;
};

}  // namespace penstock
