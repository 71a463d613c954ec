// EngineObserver: what the engine tells of its work to metrics and traces. All calls but OnRefused
// come from the engine thread; none may block or call back into the engine. Plain values only.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "core/sched/stage_types.h"
#include "core/sched/step_plan.h"
#include "frontend/engine_types.h"

namespace penstock {

// One request, told once, at its end.
struct RequestRecord {
  RequestId id = 0;
  FinishReason reason = FinishReason::kStop;
  absl::StatusCode code = absl::StatusCode::kOk;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, from the prefix cache, at its first admission
  int64_t generated_tokens = 0;
  int64_t max_tokens = 0;
  int64_t preemptions = 0;
  int64_t recoveries = 0;  // epochs that it was carried over
  absl::Time arrived;
  absl::Time started = absl::InfiniteFuture();      // first row; infinite: never
  absl::Time first_token = absl::InfiniteFuture();  // likewise
  absl::Time finished;
};

// One plan on one stage, told when its result has come.
struct StageRecord {
  int32_t stage = 0;
  uint32_t epoch = 0;
  uint64_t plan = 0;
  int64_t rows = 0;
  int64_t tokens = 0;
  int64_t prefill_tokens = 0;
  absl::Time submitted;
  absl::Time received;
  StageTimes times;
};

enum class PipelineState : uint8_t { kLoading, kReady, kRecovering, kFailed, kDraining };

// How things stand, told at the end of a turn of the engine, at most every 50 ms.
struct EngineGauges {
  PipelineState state = PipelineState::kLoading;
  int64_t running = 0;  // sequences in a slot
  int64_t waiting = 0;  // arrived and not running, preempted ones included
  int64_t waiting_tokens = 0;
  int64_t blocks_total = 0;
  int64_t blocks_used = 0;    // owned by sequences
  int64_t blocks_cached = 0;  // not owned, but of use to later prompts
  int64_t plans_in_flight = 0;
  uint32_t epoch = 0;
};

class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnRequest(const RequestRecord&) {}
  // A request that was not taken in: the queue is full (RESOURCE_EXHAUSTED), it fits nowhere, the
  // server drains or has failed. Any thread.
  virtual void OnRefused(absl::StatusCode) {}
  // Between two tokens of one request.
  virtual void OnTokenGap(absl::Duration) {}
  virtual void OnFirstToken(absl::Duration /*since_arrival*/) {}
  virtual void OnPlan(uint64_t /*plan*/, int64_t /*rows*/, int64_t /*tokens*/) {}
  virtual void OnStage(const StageRecord&) {}
  virtual void OnBeat(int32_t /*stage*/, const StageBeat&) {}
  virtual void OnPreemption(RequestId) {}
  // Prompt tokens that were looked up in the prefix cache, and those found.
  virtual void OnPrefixLookup(int64_t /*tokens*/, int64_t /*hits*/) {}
  // A stage died or hangs: its epoch is over.
  virtual void OnStageLost(int32_t /*stage*/, const absl::Status&) {}
  // The pipeline answers again, this long after the loss.
  virtual void OnRecovered(absl::Duration) {}
  virtual void OnGauges(const EngineGauges&) {}
};

}  // namespace penstock
