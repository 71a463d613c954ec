// Metrics: what the engine tells, as numbers for Prometheus and for the status page. Where one
// means the same as vLLM's it has vLLM's name (its V1 engine), labels and buckets; the others are
// called penstock_*, those of a stage with the label `stage`. metric_list.cc has all of them.
// Thread rule: the observer's calls as it says, which set atomics and return; all else any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "frontend/engine_observer.h"
#include "frontend/metric_set.h"

namespace penstock {

// What the status page says of a stage.
struct StageNumbers {
  bool up = false;
  uint32_t epoch = 0;
  int64_t plans = 0;
  int64_t tokens = 0;
  int64_t losses = 0;
  int64_t compute_ns = 0;  // sums since the start
  int64_t wait_input_ns = 0;
  int64_t wait_plan_ns = 0;
  int64_t send_ns = 0;
  int64_t resident_bytes = 0;
  int64_t cpu_ns = 0;
};

class Metrics final : public EngineObserver {
 public:
  // REQUIRES: num_stages > 0
  explicit Metrics(int32_t num_stages);

  // The model is loaded: from now on its name is a label of everything, and the stages are up.
  void SetModel(const std::string& name, int64_t num_blocks);
  // Between loading and draining the state is the engine's.
  void SetReady();
  void SetDraining();

  PipelineState state() const;
  EngineGauges gauges() const;
  int32_t num_stages() const { return static_cast<int32_t>(stages_.size()); }
  StageNumbers stage(int32_t index) const;
  // Why the stage that was lost last was; empty: none was.
  std::string last_loss() const;

  // The body of /metrics.
  std::string Text() const;

  void OnRequest(const RequestRecord& request) override;
  void OnRefused(absl::StatusCode code) override;
  void OnTokenGap(absl::Duration gap) override;
  void OnFirstToken(absl::Duration since_arrival) override;
  void OnPlan(uint64_t plan, int64_t rows, int64_t tokens) override;
  void OnStage(const StageRecord& record) override;
  void OnBeat(int32_t stage, const StageBeat& beat) override;
  void OnPreemption(RequestId id) override;
  void OnPrefixLookup(int64_t tokens, int64_t hits) override;
  void OnStageLost(int32_t stage, const absl::Status& status) override;
  void OnRecovered(absl::Duration time) override;
  void OnGauges(const EngineGauges& gauges) override;

 private:
  static constexpr size_t kStates = 5;   // of PipelineState
  static constexpr size_t kCodes = 17;   // of absl::StatusCode
  static constexpr size_t kReasons = 4;  // of FinishReason

  struct Stage {
    MetricGauge* up = nullptr;
    MetricGauge* epoch = nullptr;
    MetricCounter* losses = nullptr;
    MetricCounter* plans = nullptr;
    MetricCounter* rows = nullptr;
    MetricCounter* tokens = nullptr;
    MetricCounter* prefill_tokens = nullptr;
    MetricHistogram* compute = nullptr;
    MetricHistogram* wait_plan = nullptr;
    MetricHistogram* wait_input = nullptr;
    MetricHistogram* send = nullptr;
    MetricHistogram* turnaround = nullptr;
    MetricGauge* queued = nullptr;
    MetricGauge* resident = nullptr;
    MetricCounter* cpu = nullptr;
    MetricCounter* voids = nullptr;
    MetricGauge* device_used = nullptr;
    MetricGauge* device_cached = nullptr;
    MetricCounter* device_allocations = nullptr;
  };

  void AddEngine();
  void AddRequests();
  void AddStage(int32_t index);
  Stage* Find(int32_t index);  // nullptr: there is no such stage

  MetricSet set_;

  std::array<MetricCounter*, kReasons> ended_by_reason_;
  std::array<MetricCounter*, kCodes> ended_by_code_;
  std::array<MetricCounter*, kCodes> refused_;
  MetricCounter *prompt_tokens_, *generation_tokens_, *carried_over_;
  MetricHistogram *first_token_, *token_gap_, *time_per_token_, *whole_, *queued_, *running_,
      *prefill_, *decode_;
  MetricHistogram *request_prompt_, *request_generated_, *request_max_tokens_, *request_computed_;

  MetricGauge *running_now_, *waiting_now_, *waiting_tokens_, *kv_usage_;
  MetricGauge *blocks_owned_, *blocks_cached_, *blocks_free_, *plans_in_flight_, *epoch_;
  std::array<MetricGauge*, kStates> states_;
  MetricCounter *preemptions_, *prefix_queries_, *prefix_hits_, *plans_;
  MetricHistogram *plan_tokens_, *plan_rows_, *recoveries_;
  std::vector<Stage> stages_;

  std::atomic<bool> ready_ = false;
  std::atomic<bool> draining_ = false;
  std::atomic<PipelineState> engine_state_ = PipelineState::kReady;

  mutable std::mutex mutex_;
  std::string model_;      // guarded by mutex_
  std::string last_loss_;  // guarded by mutex_; written when a stage is lost, which is rare
};

// "ready", "recovering" and so on.
const char* PipelineStateName(PipelineState state);

}  // namespace penstock
