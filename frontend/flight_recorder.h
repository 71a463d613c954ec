// FlightRecorder: the last plans of the epoch and their results, told as a FlightRecord when the
// epoch ends badly: penstock replay runs it again on one stage. Integers only, no text.
// Thread rule: one thread, the engine's; `write` is called there and must not block it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/sched/stage_types.h"
#include "core/sched/step_plan.h"

namespace penstock {

struct FlightEntry {
  StepPlan plan;
  std::optional<StepResult> result;  // none: the epoch had ended before
};

struct FlightRecord {
  StageOptions stage;  // as the first one was told
  uint64_t model_hash = 0;
  int64_t num_blocks = 0;
  uint32_t epoch = 0;
  std::string reason;  // why the epoch ended
  std::vector<FlightEntry> entries;
};

class FlightRecorder {
 public:
  using Writer = std::function<void(FlightRecord)>;
  // REQUIRES: max_plans > 0.
  FlightRecorder(int64_t max_plans, Writer write)
      : max_plans_(max_plans), write_(std::move(write)) {}

  void BeginEpoch() { entries_.clear(); }
  void OnPlan(const StepPlan& plan) {
    entries_.push_back({plan, std::nullopt});
    if (static_cast<int64_t>(entries_.size()) > max_plans_) entries_.pop_front();
  }
  // The last stage's; results come in the order of the plans.
  void OnResult(const StepResult& result) {
    if (entries_.empty() || result.number < entries_.front().plan.number) return;
    entries_[result.number - entries_.front().plan.number].result = result;
  }
  // `record` has everything but the entries.
  void EndEpoch(FlightRecord record) {
    record.entries.assign(entries_.begin(), entries_.end());
    entries_.clear();
    write_(std::move(record));
  }

 private:
  const int64_t max_plans_;
  const Writer write_;
  std::deque<FlightEntry> entries_;
};

}  // namespace penstock
