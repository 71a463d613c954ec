// StageSampler: the last stage's end of a step. It samples the rows that ask for it, as StageSlots
// says of their sequences, and tells the prompts' log-probabilities, running the LM head over tiles
// of at most SampleRows rows. A void row is not sampled. Its outputs are made once, for two steps,
// so that one can begin before the other's are read. One thread at a time.
#pragma once

#include <array>
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
  // What was sampled, before it is read: all but the tokens and what is told of them.
  struct Asked {
    std::vector<SampledToken> samples;
    std::vector<int32_t> tops;  // likeliest tokens that are told of each
  };
  // Enqueues the sampling; its outputs are those of `place`, 0 or 1. Mail takes the tokens along.
  // REQUIRES: slots.Admit and batcher.Build have taken the plan, and the model has run the batch.
  void Begin(const Step& step, const StageSlots& slots, int place, Asked* asked);
  // The tokens as kernels see them.
  Tensor Tokens(const Backend& backend, int place) const {
    return backend.KernelView(outs_[static_cast<size_t>(place)].tokens);
  }
  // Fills the result's samples, once the step's kernels are done.
  void Finish(const Asked& asked, int place, StepResult* result);
  // Fills the result's prompt_logprobs, of the step that was begun last, once it is done.
  // REQUIRES: batcher.num_targets() > 0.
  void TellPrompts(const Step& step, const StageSlots& slots, StepResult* result);

 private:
  void RunSampling(Backend& backend, const Tensor& logits, const SamplingOutput& out);
  void SendTokens(Backend& backend, const SamplingOutput& out);
  void TellTile(const Step& step, const Tensor& places, StepResult* result);
  std::vector<TokenLogprob> Top(const SamplingOutput& out, size_t row, int32_t count) const;

  std::vector<SamplingRow> rows_;      // of the logits at hand
  std::vector<PromptLogprob> wanted_;  // of the tile at hand: what the answer is of
  // [SampleRows], [SampleRows, kMaxLogprobs]
  std::array<SamplingOutput, 2> outs_;
  int64_t vocab_size_ = 0;
};

}  // namespace penstock
