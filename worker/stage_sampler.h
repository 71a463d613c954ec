// StageSampler: the last stage's end of a step. It keeps, by slot, what an Admission left of its
// sequence (sampling parameters, token history), samples the rows that ask for it, and tells the
// prompts' log-probabilities, running the LM head over tiles of at most SampleRows rows. Its
// outputs are made once. One thread at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "core/kernels/ops.h"
#include "core/model/model.h"
#include "core/sched/step_plan.h"
#include "worker/step_batcher.h"
#include "worker/token_history.h"

namespace penstock {

class StageSampler {
 public:
  // Errors: the allocator's.
  static absl::StatusOr<StageSampler> Make(const PlanLimits& limits, BaseAllocator& allocator);

  // Takes in the plan's admissions, then holds its rows against the slots. REQUIRES: CheckPlan has
  // let the plan through. Errors: FAILED_PRECONDITION with the slot.
  absl::Status Admit(const StepPlan& plan);

  // Fills the result's samples and prompt_logprobs, and the histories with what was sampled.
  // REQUIRES: Admit and batcher.Build have taken the plan, and the model has run `batch`.
  void Run(const StepPlan& plan, const StepBatcher& batcher, const StepBatch& batch, Model& model,
           Ops& ops, StepResult* result);

 private:
  struct Slot {
    bool used = false;
    bool in_plan = false;  // while Admit looks through the rows
    uint32_t generation = 0;
    SamplingParams sampling;
    int64_t prompt_tokens = 0;
    TokenHistory history;  // empty unless sampling.needs_history()
  };

  absl::Status CheckRow(const PlanRow& row);
  void Sample(const StepBatcher& batcher, const StepBatch& batch, Model& model, Ops& ops,
              StepResult* result);
  void TellPrompts(const StepPlan& plan, const StepBatcher& batcher, Model& model, Ops& ops,
                   StepResult* result);
  void TellTile(Model& model, Ops& ops, const Tensor& places, StepResult* result);
  std::vector<TokenLogprob> Top(size_t row) const;

  Slot& At(int32_t slot) { return slots_[static_cast<size_t>(slot)]; }

  std::vector<Slot> slots_;
  std::vector<SamplingRow> rows_;      // of the logits at hand
  std::vector<PromptLogprob> wanted_;  // of the tile at hand: what the answer is of
  SamplingOutput out_;                 // [SampleRows], [SampleRows, kMaxLogprobs]
  int64_t vocab_size_ = 0;
};

}  // namespace penstock
