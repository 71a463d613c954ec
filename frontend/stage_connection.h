// StageConnection: the coordinator's line to one stage, and StageProvider, which makes them: it
// starts a worker process, dials a worker that runs elsewhere, or uses the stage inside this
// process. Tests and the simulation put models of stages behind these.
//
// All is asynchronous: a call returns at once, and what comes of it is an event. After StageLost
// there is no other event. Thread rule: calls from one thread at a time; events come on any thread,
// one at a time and in order, also from inside a call, and their receiver must not block.
#pragma once

#include <functional>
#include <memory>
#include <variant>

#include "core/base/status.h"
#include "core/sched/stage_types.h"
#include "core/sched/step_plan.h"

namespace penstock {

// The stage has entered the epoch: its slots are empty and its lanes connected.
struct EpochEntered {
  uint32_t epoch = 0;
};

// The stage lives, but this epoch is over for it: a plan that it cannot run, an input that did not
// come in time, a peer that died, lanes that could not be connected.
struct EpochFailed {
  uint32_t epoch = 0;
  uint64_t plan = 0;  // 0: none
  absl::Status status;
};

// The stage is gone, or will not do: it could not be started or reached, its process has ended, its
// stream has broken, it refused to load. Nothing more can be had from this connection.
struct StageLost {
  absl::Status status;
};

using StageEvent = std::variant<LoadProgress, StageInfo, EpochEntered, StepResult, StageBeat,
                                EpochFailed, StageLost>;

class StageConnection {
 public:
  // Ends the stage's process, if it was started for this. No event comes once it has returned.
  virtual ~StageConnection() = default;
  // Answered by LoadProgress, now and then, and StageInfo, or by StageLost. Once.
  virtual void Load(const StageOptions& options) = 0;
  // Answered by EpochEntered or EpochFailed. What was in flight is not answered any more.
  virtual void BeginEpoch(const EpochStart& start) = 0;
  // Answered by a StepResult, in plan order, or, for the epoch's remaining plans together, by one
  // EpochFailed.
  virtual void Submit(const StepPlan& plan) = 0;
  // The process is no longer trusted to end by itself: kill it. Of no effect on one that was not
  // started for this connection; its stream is broken off.
  virtual void Kill() = 0;
};

class StageProvider {
 public:
  using EventCallback = std::function<void(StageEvent)>;
  virtual ~StageProvider() = default;
  // Starts or reaches the stage; a failure is the first event. May be called again for the same
  // stage once its connection is destroyed.
  virtual std::unique_ptr<StageConnection> Connect(int32_t stage, EventCallback events) = 0;
};

}  // namespace penstock
