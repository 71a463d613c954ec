// ResultCheck: holds every result against the plan that it answers, before the scheduler sees it:
// what a stage sends is never trusted. It keeps, by slot, what the plans so far have admitted.
// Thread rule: one thread, the engine's.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/base/status.h"
#include "core/sched/step_plan.h"

namespace penstock {

class ResultCheck {
 public:
  void SetVocabulary(int64_t vocab_size) { vocab_size_ = vocab_size; }
  // A new epoch: every slot is empty.
  void Clear() { slots_.clear(); }

  // Errors: INTERNAL, with what does not fit. REQUIRES: called in plan order, for every plan of
  // the epoch; `result` is the last stage's.
  absl::Status Check(const StepPlan& plan, const StepResult& result);
  // Of a stage that is not the last: its results hold no tokens.
  static absl::Status CheckDone(const StepPlan& plan, const StepResult& result);

 private:
  // What was admitted to a slot.
  struct Slot {
    uint32_t generation = 0;
    int32_t top_sampled = 0;  // how many tokens are told beside each sampled one
    int32_t top_prompt = 0;   // the same for the prompt's
    std::vector<int32_t> stop_ids;
    bool ended = false;  // by a stop id, or by failing: what comes later is void
  };

  absl::Status CheckSamples(const StepPlan& plan, const StepResult& result);
  absl::Status CheckPrompts(const StepPlan& plan, const StepResult& result);
  absl::Status CheckTop(const TokenLogprob& token, const std::vector<TokenLogprob>& top,
                        int32_t count) const;

  int64_t vocab_size_ = 0;
  absl::flat_hash_map<int32_t, Slot> slots_;
};

}  // namespace penstock
