#include "frontend/stage_watch.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"

namespace penstock {

void StageWatch::BeginEpoch(uint64_t first_plan) {
  plans_.clear();
  for (Stage& stage : stages_) {
    stage.done = first_plan - 1;
    stage.done_at = absl::InfinitePast();
  }
}

void StageWatch::Submit(StepPlan plan, absl::Time now) {
  PENSTOCK_CHECK(plans_.empty() || plans_.back().plan.number + 1 == plan.number);
  Plan& entry = plans_.emplace_back();
  entry.plan = std::move(plan);
  entry.submitted = now;
  entry.ended.assign(stages_.size(), absl::InfiniteFuture());
}

const StageWatch::Plan* StageWatch::Find(uint64_t number) const {
  if (plans_.empty() || number < plans_.front().plan.number) return nullptr;
  const uint64_t at = number - plans_.front().plan.number;
  return at < plans_.size() ? &plans_[at] : nullptr;
}

const StageWatch::Plan* StageWatch::Next(int32_t stage) const {
  return Find(stages_[static_cast<size_t>(stage)].done + 1);
}

void StageWatch::End(int32_t stage, absl::Time now) {
  Stage& one = stages_[static_cast<size_t>(stage)];
  const uint64_t at = ++one.done - plans_.front().plan.number;
  PENSTOCK_CHECK_LT(at, plans_.size());
  one.done_at = now;
  plans_[at].ended[static_cast<size_t>(stage)] = now;
  const auto has_ended = [](absl::Time time) { return time != absl::InfiniteFuture(); };
  while (!plans_.empty() &&
         std::all_of(plans_.front().ended.begin(), plans_.front().ended.end(), has_ended)) {
    plans_.pop_front();
  }
}

void StageWatch::Beat(int32_t stage, const StageBeat& beat, absl::Time now) {
  stages_[static_cast<size_t>(stage)].beat = beat;
  stages_[static_cast<size_t>(stage)].beat_at = now;
}

void StageWatch::Forgive(absl::Duration gap) {
  for (Stage& stage : stages_) {
    stage.done_at += gap;
    stage.beat_at += gap;
  }
  for (Plan& plan : plans_) {
    plan.submitted += gap;
    for (absl::Time& ended : plan.ended) ended += gap;
  }
}

// When the last of what the stage needs for the plan was there; InfiniteFuture: it is not yet.
absl::Time StageWatch::InputAt(int32_t stage, const Plan& plan) const {
  absl::Time input = plan.submitted;
  if (stage > 0) return std::max(input, plan.ended[static_cast<size_t>(stage) - 1]);
  for (const PlanRow& row : plan.plan.rows) {
    const Plan* from = row.token_from == 0 ? nullptr : Find(row.token_from);
    if (from != nullptr) input = std::max(input, from->ended[static_cast<size_t>(last())]);
  }
  return input;
}

StageWatch::Late StageWatch::CheckPlans(absl::Time now) const {
  Late late;
  for (int32_t stage = 0; stage <= last(); ++stage) {
    const Plan* plan = Next(stage);
    if (plan == nullptr || plan->plan.limit_ns == 0) continue;
    const absl::Time since =
        std::max(InputAt(stage, *plan), stages_[static_cast<size_t>(stage)].done_at);
    const absl::Time until = since + absl::Nanoseconds(plan->plan.limit_ns);
    if (until <= now && !late.plan) late.plan = plan->plan.number;
    late.next = std::min(late.next, until);
  }
  return late;
}

StageWatch::Silent StageWatch::CheckBeats(const std::vector<bool>& watched, absl::Time now) const {
  Silent silent;
  for (int32_t stage = 0; stage <= last(); ++stage) {
    const Stage& one = stages_[static_cast<size_t>(stage)];
    if (!watched[static_cast<size_t>(stage)] || !one.beat.has_value()) continue;
    absl::Time since = one.beat_at;
    // It gets the whole time with its work before it.
    if (const Plan* plan = Next(stage)) since = std::max(since, plan->submitted);
    const absl::Time until = since + hang_limit_;
    if (until <= now && !silent.stage) silent.stage = stage;
    silent.next = std::min(silent.next, until);
  }
  return silent;
}

std::optional<int32_t> StageWatch::Blame(uint64_t number, absl::Time now) const {
  for (int32_t stage = 0; stage <= last(); ++stage) {
    const Stage& one = stages_[static_cast<size_t>(stage)];
    if (one.done >= number) continue;
    const bool fresh = one.beat.has_value() && now - one.beat_at < hang_limit_ / 2;
    if (!fresh || one.beat->doing != StageBeat::Doing::kWaitsForInput) return stage;
  }
  return std::nullopt;
}

}  // namespace penstock
