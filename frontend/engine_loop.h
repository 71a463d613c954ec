// EngineLoop: the engine. One thread, started here, decides everything: it owns the Scheduler (and
// with it sequences, slots and KV blocks) and the list of living requests, turns arrivals into
// numbered plans, and hands committed tokens to the requests' sinks.
//
//   any thread ── Submit, Abort ──▶ RequestQueue ─┐
//   stage link ── results ──▶ PipelineCoordinator ┼─▶ engine thread ──▶ TokenSink
//   main thread ── Drain, Stop ───────────────────┘
//
// It sleeps on one Wakeup that all of these notify, or until the next deadline. The coordinator is
// borrowed and must outlive the loop; while the loop lives nobody else may call it.
// Thread rule: every public call from any thread but the engine's own (so not from a TokenSink).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/sched/scheduler.h"
#include "frontend/engine_types.h"
#include "frontend/pipeline_coordinator.h"
#include "frontend/request_queue.h"
#include "frontend/wakeup.h"

namespace penstock {

struct EngineOptions {
  int64_t max_queued_requests = 256;      // waiting, not running
  int64_t max_queued_tokens = 1ll << 20;  // prompt + max_tokens over the waiting requests
  int64_t max_step_tokens = 512;          // tokens of one plan; as the stage was told
  int64_t max_sequences = 64;             // running at once; as the stage was told
  std::function<absl::Time()> now = [] { return absl::Now(); };  // deadlines are held against it
};

// What the two limits of a step have to be. Errors: INVALID_ARGUMENT with the setting to change.
absl::Status Validate(const EngineOptions& options);

// A snapshot, as of the last turn of the loop.
struct EngineStats {
  int64_t running = 0;  // requests in a slot
  int64_t waiting = 0;  // requests that have arrived and are not running
  int64_t blocks_free = 0;
  int64_t blocks_total = 0;
  int64_t steps = 0;             // plans committed
  int64_t prompt_tokens = 0;     // of the requests that got their first token
  int64_t generated_tokens = 0;  // handed to sinks
};

class EngineLoop {
 public:
  // Starts the thread. REQUIRES: Validate(options) is OK; the coordinator has loaded and `info`
  // is what it loaded.
  EngineLoop(EngineOptions options, const StageInfo& info, PipelineCoordinator& coordinator);
  ~EngineLoop();  // Stop()
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // Takes the request in. The sink's calls come from the engine thread and may begin before this
  // returns; the loop lets go of the sink after OnFinish.
  // Errors, without a call of the sink: RESOURCE_EXHAUSTED (queue full, worth another try),
  // OUT_OF_RANGE (never fits into the KV blocks or the queue), UNAVAILABLE (draining, stopped or
  // the stage is lost).
  absl::StatusOr<RequestId> Submit(GenerationRequest request, std::shared_ptr<TokenSink> sink);

  // The same once a sink, all or none: answer i has sampling.choice i, and the prompt's
  // log-probabilities go to the first. Returns the first one's id, which the others follow; each
  // is aborted by itself. REQUIRES: a sink.
  absl::StatusOr<RequestId> SubmitChoices(GenerationRequest request,
                                          std::vector<std::shared_ptr<TokenSink>> sinks);

  // The request ends with kAbort and CANCELLED, if it lives. May be called again, or too late.
  void Abort(RequestId id);

  // Refuses new requests with UNAVAILABLE, lets the accepted ones finish for `timeout`, ends what
  // is left with UNAVAILABLE. Returns when every request has ended. Then only Stop is left.
  void Drain(absl::Duration timeout);

  // Ends every request with UNAVAILABLE and the thread with them, without waiting for the stage.
  void Stop();

  // False once the stage is lost: every Submit is refused from then on.
  bool healthy() const;

  EngineStats stats() const;

 private:
  struct Live {
    std::shared_ptr<TokenSink> sink;
    absl::Time deadline;
    int64_t prompt_tokens = 0;  // 0 once counted
  };
  // Wishes of other threads, and what the engine thread tells them.
  struct Control {
    bool stop = false;
    bool draining = false;
    absl::Time drain_until = absl::InfiniteFuture();
    bool drained = false;
    bool healthy = true;
    EngineStats stats;
  };

  void Run();
  void TakeArrivals();
  void TakeResults();
  void Deliver(const SequenceProgress& progress);
  void ExpireDeadlines(absl::Time now);
  void EndIfStageLost();
  void SubmitPlan();
  void Finish(RequestId id, FinishReason reason, const absl::Status& status);
  void FinishAll(const absl::Status& status);
  void Publish(bool drained);

  const EngineOptions options_;
  const int64_t num_blocks_;
  const std::shared_ptr<Wakeup> wakeup_;
  PipelineCoordinator& coordinator_;
  RequestQueue queue_;

  mutable std::mutex mutex_;
  std::condition_variable drained_;  // control_.drained has become true
  Control control_;                  // guarded by mutex_

  // The engine thread's own.
  Scheduler scheduler_;
  absl::flat_hash_map<RequestId, Live> live_;
  std::set<std::pair<absl::Time, RequestId>> deadlines_;  // of the live requests that have one
  EngineStats stats_;

  std::mutex stop_mutex_;  // one Stop at a time
  std::thread thread_;     // guarded by stop_mutex_ after the constructor
};

}  // namespace penstock
