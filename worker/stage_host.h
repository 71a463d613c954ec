// StageHost: one stage as the worker service drives it: loading, epochs, plans that run ahead. The
// real one is a stage's place in the pipeline, with its stream and its lanes; tests put a fake
// behind it.
// Thread rule: Load, BeginEpoch and Submit from one thread at a time; beat and Abandon from any.
#pragma once

#include <functional>

#include "core/base/status.h"
#include "core/sched/stage_types.h"
#include "core/sched/step_plan.h"
#include "worker/stage.h"

namespace penstock {

class StageHost {
 public:
  using ProgressCallback = StageExecutor::ProgressCallback;
  // A result, or why the epoch is over; on the stage's own thread.
  using ResultCallback = std::function<void(absl::StatusOr<StepResult>)>;

  // Abandons; waits for the plan that computes. No callback comes once it has returned.
  virtual ~StageHost() = default;
  // Blocks. Once, before all else.
  virtual absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                         const ProgressCallback& progress) = 0;
  // Drops what is enqueued, empties the slots and connects the lanes anew. Blocks, at most for the
  // plan that computes and start.connect_ns. REQUIRES: loaded.
  virtual absl::Status BeginEpoch(const EpochStart& start) = 0;
  // Enqueues the plan and returns at once. `callback` is called once, in plan order; after an error
  // the epoch's later plans are dropped without a call. REQUIRES: an epoch has begun.
  virtual void Submit(const StepPlan& plan, ResultCallback callback) = 0;
  // What the stage is doing; the fields that are of the process are the service's to fill in.
  virtual StageBeat beat() const = 0;
  // Cancels what waits and drops what is enqueued, at once: nobody wants it any more. A BeginEpoch
  // that is under way, or comes later, fails.
  virtual void Abandon() = 0;
};

}  // namespace penstock
