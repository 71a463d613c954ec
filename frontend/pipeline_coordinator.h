// PipelineCoordinator: the engine's side of the pipeline. It owns the connections to the stages,
// the epoch, the plans in flight and the liveness of the stages, and lets only results that fit
// their plans through to the scheduler.
//
//   kLoading ──all loaded, epoch entered──▶ kReady ◀──all loaded, epoch entered── kRecovering
//       └─ a stage will not load ─▶ kFailed ◀─ crash loop ─┘ └─ loss, hang, limit, failed epoch ─▲
//
// It is driven: nothing happens but in Advance and Submit, none of which blocks, and the time is
// what they are told. Events of the connections wait in an inbox and notify the Wakeup.
// A stage that died, hangs or is over a plan's limit is killed and connected anew; the others stay
// loaded. When all are loaded the next epoch begins; what was in flight before is never answered.
// Thread rule: one thread, the engine's (before there is an engine, the one that loads).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "frontend/engine_observer.h"
#include "frontend/flight_recorder.h"
#include "frontend/pipeline_options.h"
#include "frontend/result_check.h"
#include "frontend/stage_inbox.h"
#include "frontend/stage_watch.h"

namespace penstock {

class PipelineCoordinator {
 public:
  // Why an epoch with which the pipeline was ready has ended.
  struct EpochEnd {
    absl::Status status;
    absl::Time at;
  };

  // REQUIRES: a layer range a stage. `observer` may be null.
  PipelineCoordinator(std::unique_ptr<StageProvider> provider, PipelineOptions options,
                      EngineObserver* observer = nullptr);
  // Ends the connections: no event comes in after that.
  ~PipelineCoordinator();
  PipelineCoordinator(const PipelineCoordinator&) = delete;
  PipelineCoordinator& operator=(const PipelineCoordinator&) = delete;

  // Notified of every event.
  const std::shared_ptr<Wakeup>& wakeup() const { return wakeup_; }
  // Told from inside of Advance, summed over the stages, until the pipeline is first ready.
  using ProgressCallback = std::function<void(const LoadProgress&)>;
  void SetProgress(ProgressCallback progress) { progress_ = std::move(progress); }

  // Begins to load. Once, first.
  void Start(absl::Time now);
  // Takes in what has happened and does what is due.
  void Advance(absl::Time now);
  // When Advance is due again, whatever comes.
  absl::Time NextTime(absl::Time now) const;

  PipelineState state() const { return state_; }
  // Why the pipeline recovers or has failed.
  const absl::Status& status() const { return status_; }
  uint32_t epoch() const { return epoch_; }
  // REQUIRES: has been ready. Of the whole: blocks are the least over the stages, bytes the sum.
  const StageInfo& info() const { return info_; }
  const std::vector<StageInfo>& stages() const { return stage_infos_; }

  // Stamps the plan with epoch and limit, `predicted_ns` being how long it should take through all
  // stages, and sends it to every stage. REQUIRES: kReady, the epoch's end taken; numbers count up
  // by one over all epochs.
  void Submit(StepPlan plan, int64_t predicted_ns, absl::Time now);
  // Submitted, and neither taken nor lost with its epoch.
  int64_t num_in_flight() const { return num_in_flight_; }

  // The result of the oldest plan in flight, once the last stage has answered it. What had come
  // before an epoch ended can still be taken.
  std::optional<StepResult> Take();
  // The end of an epoch, once, after its last result.
  std::optional<EpochEnd> TakeEpochEnd();
  // What the stages have measured since the last call.
  std::vector<StageRecord> TakeRecords() { return std::exchange(records_, {}); }

  // Keeps plans and results, and what to do with them when an epoch ends badly.
  void SetFlightRecorder(std::unique_ptr<FlightRecorder> recorder);

 private:
  enum class Phase : uint8_t { kAway, kLoading, kLoaded, kEntering, kRefused, kEntered };
  struct Stage {
    std::unique_ptr<StageConnection> connection;
    uint64_t serial = 0;  // of the connection: events of earlier ones are dropped
    Phase phase = Phase::kAway;
    absl::Time until = absl::InfiniteFuture();  // kAway: connect then; loading, entering: the limit
    LoadProgress progress;
    int64_t losses = 0;    // since it last was in an epoch that became ready
    int64_t refusals = 0;  // epochs in a row that it would not enter
    absl::Status refusal;
  };
  Stage& At(int32_t stage) { return stages_[static_cast<size_t>(stage)]; }
  int32_t num_stages() const { return static_cast<int32_t>(stages_.size()); }
  absl::Status Named(int32_t stage, const absl::Status& status) const;
  bool All(Phase phase) const;
  void Connect(int32_t stage, absl::Time now);
  void Handle(int32_t stage, StageEvent& event, absl::Time now);
  void OnProgress(int32_t stage, const LoadProgress& progress, absl::Time now);
  void OnInfo(int32_t stage, StageInfo info, absl::Time now);
  absl::Status CheckInfo(int32_t stage, const StageInfo& info) const;
  void OnResult(int32_t stage, StepResult result, absl::Time now);
  void OnEpochFailed(int32_t stage, const EpochFailed& failed, absl::Time now);
  void CheckLimits(absl::Time now);
  void Move(absl::Time now);
  void BeginEpoch(absl::Time now);
  void OnStuck(uint64_t plan, const absl::Status& status, absl::Time now);
  void Lose(int32_t stage, const absl::Status& status, absl::Time now);
  void EndEpoch(const absl::Status& status, absl::Time now);
  void CountDeath(const absl::Status& status, absl::Time now);
  void GiveUp(const absl::Status& status);

  const PipelineOptions options_;
  EngineObserver none_;
  EngineObserver& observer_;
  const std::shared_ptr<Wakeup> wakeup_ = std::make_shared<Wakeup>();
  const std::shared_ptr<StageInbox> inbox_ = std::make_shared<StageInbox>(wakeup_);
  ProgressCallback progress_ = [](const LoadProgress&) {};
  std::unique_ptr<FlightRecorder> recorder_;

  PipelineState state_ = PipelineState::kLoading;
  absl::Status status_;
  StageInfo info_;
  std::vector<StageInfo> stage_infos_;
  uint32_t epoch_ = 0;
  uint64_t next_plan_ = 1;
  absl::Time begin_at_ = absl::InfinitePast();  // no epoch begins before
  absl::Time advanced_at_ = absl::InfiniteFuture();
  std::deque<absl::Time> deaths_;
  bool unexplained_ = false;  // the last one: no stage has been lost since

  StageWatch watch_;
  ResultCheck check_;
  int64_t num_in_flight_ = 0;
  std::deque<StepResult> results_;
  std::optional<EpochEnd> ended_;
  std::vector<StageRecord> records_;

  std::unique_ptr<StageProvider> provider_;
  std::vector<Stage> stages_;  // last: connections end before the rest does
};

}  // namespace penstock
