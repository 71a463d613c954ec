// PipelineCoordinator: the engine's side of the pipeline. It owns the link to the stage, the
// epoch and the plans in flight, and lets only a result that fits its plan through to the
// scheduler: what a stage sends is never trusted.
// Thread rule: all calls from one thread at a time: the one that starts the server until an
// EngineLoop exists, then the engine thread. Results arrive on the link's thread and are kept in
// an inbox until the engine thread takes them.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "frontend/stage_link.h"
#include "frontend/wakeup.h"

namespace penstock {

class PipelineCoordinator {
 public:
  struct Outcome {
    uint64_t number = 0;  // of the plan
    absl::StatusOr<StepResult> result;
  };

  explicit PipelineCoordinator(std::unique_ptr<StageLink> link);
  // Waits for the link's threads: no result comes in after that.
  ~PipelineCoordinator();
  PipelineCoordinator(const PipelineCoordinator&) = delete;
  PipelineCoordinator& operator=(const PipelineCoordinator&) = delete;

  // Loads the model on the stage; blocks. Once, before the first Submit. `progress`
  // is called as StageLink::Load says. Errors: the stage's.
  absl::StatusOr<StageInfo> Load(
      const StageOptions& options,
      const StageLink::ProgressCallback& progress = [](const LoadProgress&) {});

  // `wakeup` is notified of every result from now on. REQUIRES: no plan in flight.
  void SetWakeup(std::shared_ptr<Wakeup> wakeup);

  // Stamps the plan with the epoch and sends it; returns at once.
  // REQUIRES: loaded; status() is OK; numbers count up by one over the calls.
  void Submit(StepPlan plan);

  // The outcome of the oldest plan in flight, if it is there. After the first error every plan
  // still in flight has the outcome status().
  std::optional<Outcome> Take();

  int64_t num_in_flight() const { return static_cast<int64_t>(in_flight_.size()); }

  // OK, or the error that ended the epoch: the stage's own, or INTERNAL for a result that does
  // not fit its plan. It stays.
  const absl::Status& status() const { return status_; }

 private:
  // How many tokens are told beside each token of the sequence in a slot.
  struct TopCounts {
    int32_t sampled = 0;
    int32_t prompt = 0;
  };

  absl::Status CheckResult(const StepPlan& plan, const StepResult& result) const;
  absl::Status CheckSamples(const StepPlan& plan, const StepResult& result) const;
  absl::Status CheckPrompts(const StepPlan& plan, const StepResult& result) const;
  absl::Status CheckTop(const TokenLogprob& token, const std::vector<TokenLogprob>& top,
                        int32_t count) const;

  const uint32_t epoch_ = 1;
  int64_t vocab_size_ = 0;
  uint64_t last_number_ = 0;
  std::deque<StepPlan> in_flight_;                // oldest first
  absl::flat_hash_map<int32_t, TopCounts> tops_;  // by slot, as of the plan taken last
  absl::Status status_;

  std::mutex mutex_;
  std::deque<absl::StatusOr<StepResult>> inbox_;  // guarded by mutex_; in plan order
  std::shared_ptr<Wakeup> wakeup_;                // guarded by mutex_

  std::unique_ptr<StageLink> link_;  // last: its threads end before the inbox does
};

}  // namespace penstock
