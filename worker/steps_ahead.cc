#include "worker/steps_ahead.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"

namespace penstock {

bool StepsAhead::CanBegin(const StepPlan& plan, const StageSlots& slots) const {
  if (empty()) return true;
  const StepPlan& before = *front().plan;
  if (steps_.size() > 1 || front().has_targets || plan.epoch != before.epoch) return false;
  const auto num_slots = static_cast<int64_t>(sample_of_slot_.size());
  for (const Admission& admission : plan.admissions) {
    if (admission.slot < 0 || admission.slot >= num_slots) return false;
    if (sample_of_slot_[static_cast<size_t>(admission.slot)] >= 0) return false;
  }
  return std::all_of(plan.rows.begin(), plan.rows.end(), [&](const PlanRow& row) {
    if (row.token_from != before.number) return true;
    return PlaceOfSample(plan, row) >= 0 && !slots.At(row.slot).sampling.needs_history();
  });
}

int32_t StepsAhead::PlaceOfSample(const StepPlan& plan, const PlanRow& row) const {
  if (empty() || row.token_from != front().plan->number || plan.epoch != front().plan->epoch) {
    return -1;
  }
  if (row.slot < 0 || row.slot >= static_cast<int64_t>(sample_of_slot_.size())) return -1;
  const int32_t place = sample_of_slot_[static_cast<size_t>(row.slot)];
  if (place < 0) return -1;
  const SampledToken& sample = front().asked.samples[static_cast<size_t>(place)];
  const bool is_the_rows = sample.generation == row.generation && sample.position == row.position;
  return is_the_rows ? place : -1;
}

void StepsAhead::Push(Step step) {
  PENSTOCK_CHECK_LT(steps_.size(), 2u);
  steps_.push_back(std::move(step));
  if (steps_.size() == 1) ListSamples();
}

StepsAhead::Step StepsAhead::Pop() {
  PENSTOCK_CHECK(!empty());
  Step step = std::move(steps_.front());
  steps_.pop_front();
  if (!empty()) ListSamples();
  return step;
}

void StepsAhead::ListSamples() {
  std::fill(sample_of_slot_.begin(), sample_of_slot_.end(), -1);
  for (size_t i = 0; i < front().asked.samples.size(); ++i) {
    sample_of_slot_[static_cast<size_t>(front().asked.samples[i].slot)] = static_cast<int32_t>(i);
  }
}

}  // namespace penstock
