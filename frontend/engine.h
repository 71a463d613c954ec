// Engine: decides everything, in turns: it owns the Scheduler (and with it sequences, slots and KV
// blocks) and the living requests, turns arrivals into numbered plans for the coordinator, hands
// committed tokens to the requests' sinks, and carries the requests over the death of a stage. No
// thread and no clock of its own: EngineLoop has both, and the simulation others.
//
// A request whose rows were in flight at two deaths is a suspect: it runs alone from then on, until
// it has got past where it stood; if the pipeline dies of it alone, it ends.
// Thread rule: one thread; nothing may be called from a TokenSink or an EngineObserver.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/sched/scheduler.h"
#include "frontend/engine_observer.h"
#include "frontend/engine_types.h"
#include "frontend/pipeline_coordinator.h"
#include "frontend/request_queue.h"
#include "frontend/tenant_table.h"

namespace penstock {

struct EngineOptions {
  int64_t max_queued_requests = 256;      // waiting, not running
  int64_t max_queued_tokens = 1ll << 20;  // prompt + max_tokens over the waiting requests
  int64_t max_step_tokens = 512;          // tokens of one plan; as the stages were told
  int64_t max_sequences = 64;             // running at once; as the stages were told
  int64_t plans_ahead = 2;                // plans in flight at most; as the stages were told
  bool prefix_cache = true;
  uint64_t cache_key[2] = {0, 0};  // secret, so that nobody can aim at another's cached prefix
  // The engine's clock, which never jumps, and the one that requests' deadlines are of.
  std::function<absl::Time()> now = SteadyNow;
  std::function<absl::Time()> wall = [] { return absl::Now(); };

  // The time at the first call plus what has passed since, whatever is done to the wall clock.
  static absl::Time SteadyNow();
};

// What the limits of a step have to be. Errors: INVALID_ARGUMENT with the setting to change.
absl::Status Validate(const EngineOptions& options);

// A snapshot, as of the last turn.
struct EngineStats {
  int64_t running = 0;      // requests in a slot
  int64_t waiting = 0;      // requests that have arrived and are not running
  int64_t blocks_free = 0;  // cached ones included
  int64_t blocks_total = 0;
  int64_t steps = 0;             // plans committed
  int64_t prompt_tokens = 0;     // of the requests that got their first token
  int64_t generated_tokens = 0;  // handed to sinks
  int64_t recoveries = 0;        // epochs that ended badly
};

class Engine {
 public:
  // REQUIRES: Validate(options) is OK; the coordinator has been ready, and outlives the engine.
  // `observer` may be null.
  Engine(const EngineOptions& options, PipelineCost cost, PipelineCoordinator& coordinator,
         EngineObserver* observer = nullptr);

  // Takes in what has happened and what has arrived, and sends the plans that can go. Results
  // first: a token that is here before its request's deadline or abort is delivered.
  void Turn(absl::Time now, RequestQueue::Batch batch);
  // When the next turn is due at the latest.
  absl::Time NextTime() const;
  // Ends every request.
  void FinishAll(const absl::Status& status);
  // From now on nothing is done but to finish what there is.
  void SetDraining() { draining_ = true; }

  // No request lives.
  bool empty() const { return live_.empty(); }
  // False once the pipeline is given up: every request ends UNAVAILABLE.
  bool alive() const { return coordinator_.state() != PipelineState::kFailed; }
  // The pipeline answers: from the loss of a stage on false, until a token has been committed.
  bool ready() const {
    return coordinator_.state() == PipelineState::kReady && lost_at_ == absl::InfiniteFuture();
  }
  EngineStats stats() const;
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  struct Live {
    std::shared_ptr<TokenSink> sink;
    absl::Time deadline;
    std::string tenant;
    RequestRecord record;
    absl::Time last_token;
    int64_t deaths = 0;    // epochs that ended with a row of it in flight, since it got past one
    int64_t stood_at = 0;  // tokens generated, at the last of them
    bool suspect = false;
  };

  void Add(RequestQueue::Arrival arrival);
  void TakeResults();
  void Deliver(const SequenceProgress& progress);
  void OnToken(RequestId id, Live& live);
  void OnEpochEnd(const PipelineCoordinator::EpochEnd& end);
  void ExpireDeadlines();
  void Probe();
  void SubmitPlans();
  void Finish(RequestId id, FinishReason reason, const absl::Status& status);
  void TellScheduler();
  void TellGauges();

  const EngineOptions options_;
  PipelineCoordinator& coordinator_;
  EngineObserver none_;
  EngineObserver& observer_;
  Scheduler scheduler_;
  TenantTable tenants_;
  absl::flat_hash_map<RequestId, Live> live_;
  std::set<std::pair<absl::Time, RequestId>> deadlines_;  // of the live requests that have one

  absl::Time now_;  // of this turn
  bool draining_ = false;
  absl::Time lost_at_ = absl::InfiniteFuture();  // finite: no token has come since
  bool probing_ = false;                         // the engine's own sequence lives
  absl::Time probe_at_ = absl::InfinitePast();   // not before
  absl::Time gauges_at_ = absl::InfinitePast();  // told last
  bool gauges_due_ = false;
  int64_t lookups_ = 0;  // told so far
  int64_t hits_ = 0;
  EngineStats stats_;
};

}  // namespace penstock
