// StepsAhead: the steps of a stage between Begin and Finish, two at most, and what the second may
// take from the first: tokens that are sampled and on the device, and not on the host yet.
// One thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "core/model/model.h"
#include "core/sched/step_plan.h"
#include "worker/stage_sampler.h"
#include "worker/stage_slots.h"

namespace penstock {

class StepsAhead {
 public:
  struct Step {
    const StepPlan* plan = nullptr;
    int place = 0;  // of its outputs, 0 or 1
    int64_t start_ns = 0;
    StepBatch batch;  // as kernels see it
    bool has_logits = false;
    bool has_targets = false;
    StageSampler::Asked asked;
    std::vector<SampledToken> voids;  // samples of rows that were known to be void
    std::vector<const PlanRow*> fed;  // rows that feed what the step before samples
  };

  explicit StepsAhead(int64_t slots) : sample_of_slot_(static_cast<size_t>(slots), -1) {}

  bool empty() const { return steps_.empty(); }
  // The one that was begun first. REQUIRES: there is one.
  const Step& front() const { return steps_.front(); }
  // Of the outputs of the next one.
  int NextPlace() const { return empty() ? 0 : 1 - front().place; }

  // Whether the plan can be begun. Behind another it cannot, if sampling needs the tokens of that
  // one on the host, or a slot has a new sequence while the old one's token is on its way, or the
  // one before has more to do when its samples are there.
  bool CanBegin(const StepPlan& plan, const StageSlots& slots) const;
  // Where among the samples of the step before is what the row feeds; -1: it is not there.
  int32_t PlaceOfSample(const StepPlan& plan, const PlanRow& row) const;

  // REQUIRES: less than two are there.
  void Push(Step step);
  // The front one. REQUIRES: there is one.
  Step Pop();

 private:
  void ListSamples();

  std::deque<Step> steps_;
  std::vector<int32_t> sample_of_slot_;  // among the front one's, or -1
};

}  // namespace penstock
