// EngineLoop: the engine's thread, its clock and its door. It gives the Engine its turns.
//
//   any thread ── Submit, Abort ───▶ RequestQueue ─┐
//   connections ── stages' events ─▶ StageInbox ───┼─▶ engine thread: Engine ──▶ TokenSink
//   main thread ── Drain, Stop ────────────────────┘
//
// It sleeps on one Wakeup that all of these notify, or until the engine's next time. The
// coordinator is borrowed and must outlive the loop; while the loop lives nobody else may call it.
// Thread rule: every public call from any thread but the engine's own (so not from a TokenSink).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "frontend/engine.h"

namespace penstock {

class EngineLoop {
 public:
  // Starts the thread. REQUIRES: as Engine does.
  EngineLoop(EngineOptions options, PipelineCost cost, PipelineCoordinator& coordinator,
             EngineObserver* observer = nullptr);
  ~EngineLoop();  // Stop()
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // Takes the request in. The sink's calls come from the engine thread and may begin before this
  // returns; the loop lets go of the sink after OnFinish.
  // Errors, without a call of the sink: RESOURCE_EXHAUSTED (queue full, worth another try),
  // OUT_OF_RANGE (never fits into the KV blocks or the queue), UNAVAILABLE (draining, stopped or
  // the pipeline is given up).
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

  // Ends every request with UNAVAILABLE and the thread with them, without waiting for the stages.
  void Stop();

  // False once the pipeline is given up: every Submit is refused from then on.
  bool healthy() const;
  // False also from the loss of a stage until the pipeline has answered again. Requests that come
  // meanwhile wait.
  bool ready() const;

  EngineStats stats() const;

 private:
  // Wishes of other threads, and what the engine thread tells them.
  struct Control {
    bool stop = false;
    bool draining = false;
    absl::Time drain_until = absl::InfiniteFuture();
    bool drained = false;
    bool healthy = true;
    bool ready = true;
    EngineStats stats;
  };

  absl::StatusOr<RequestId> TakeIn(GenerationRequest request,
                                   std::vector<std::shared_ptr<TokenSink>> sinks);
  void Run();
  void CloseIfGivenUp();
  void Publish(bool drained);

  const EngineOptions options_;
  PipelineCoordinator& coordinator_;
  const std::shared_ptr<Wakeup> wakeup_;
  EngineObserver* const observer_;  // may be null; here for OnRefused, which is for any thread
  RequestQueue queue_;

  mutable std::mutex mutex_;
  std::condition_variable drained_;  // control_.drained has become true
  Control control_;                  // guarded by mutex_

  Engine engine_;  // the engine thread's own

  std::mutex stop_mutex_;  // one Stop at a time
  std::thread thread_;     // guarded by stop_mutex_ after the constructor
};

}  // namespace penstock
