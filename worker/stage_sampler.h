// StageSampler: the last stage's end of a step. It samples the rows that ask for it, as StageSlots
// says of their sequences, and tells the prompts' log-probabilities, running the LM head over tiles
// of at most SampleRows rows. A void row is not sampled. Its outputs are made once. One thread at a
// time.
#pragma once

#include <cstdint>
#include <vector>

#include "core/kernels/sampling.h"
#include "core/model/backend.h"
#include "core/model/model.h"
#include "core/sched/step_plan.h"
#include "worker/stage_slots.h"
#include "worker/step_batcher.h"

namespace penstock {

class StageSampler {
 public:
  // `allocator`: of the backend's outputs. Errors: the allocator's.
  static absl::StatusOr<StageSampler> Make(const PlanLimits& limits, BaseAllocator& allocator);

  // What is at hand in a step.
  struct Step {
    const StepPlan& plan;
    const StepBatcher& batcher;
    const StepBatch& batch;  // in the kernels' view
    bool has_logits;         // of its sample_tokens
    Model& model;
    Backend& backend;
  };
  // Fills the result's samples (those of void rows last) and prompt_logprobs, and the histories
  // with what was sampled; mail takes the tokens along. At its end all of the step's kernels are
  // done. REQUIRES: slots.Admit and
  // batcher.Build have taken the plan, and the model has run the batch.
  void Run(const Step& step, StageSlots& slots, StepResult* result);

 private:
  void Sample(const Step& step, StageSlots& slots, StepResult* result);
  void TellPrompts(const Step& step, const StageSlots& slots, StepResult* result);
  void RunSampling(Backend& backend, const Tensor& logits);
  void SendTokens(Backend& backend);
  void TellTile(const Step& step, const Tensor& places, StepResult* result);
  std::vector<TokenLogprob> Top(size_t row) const;

  std::vector<SamplingRow> rows_;      // of the logits at hand
  std::vector<PromptLogprob> wanted_;  // of the tile at hand: what the answer is of
  SamplingOutput out_;                 // [SampleRows], [SampleRows, kMaxLogprobs]
  int64_t vocab_size_ = 0;
};

}  // namespace penstock
