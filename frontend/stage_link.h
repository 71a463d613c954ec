// StageLink: the coordinator's line to one stage, whatever carries it (in-process channel today,
// a socket when stages are processes). Tests put a fake behind it.
#pragma once

#include <functional>

#include "core/base/status.h"
#include "core/sched/step_plan.h"
#include "worker/stage.h"

namespace penstock {

class StageLink {
 public:
  // Called once a submitted plan, in plan order, on a thread of the link's, or by Submit itself
  // once the stage is lost; must not block. An error means that the stage is lost or that the plan
  // could not be run: the epoch is over, and every plan still in flight gets an error too.
  using ResultCallback = std::function<void(absl::StatusOr<StepResult>)>;

  // The destructor waits for the link's threads: no callback comes once it has returned.
  virtual ~StageLink() = default;

  // Loads the model on the stage; blocks until it is ready or has failed. Once, before Submit.
  // Meanwhile `progress` is called now and then, on a thread of the link's.
  using ProgressCallback = StageExecutor::ProgressCallback;
  virtual absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                         const ProgressCallback& progress) = 0;
  absl::StatusOr<StageInfo> Load(const StageOptions& options) {
    return Load(options, [](const LoadProgress&) {});
  }
  // REQUIRES: before the first Submit.
  virtual void SetResultCallback(ResultCallback callback) = 0;
  // Enqueues the plan and returns at once.
  virtual void Submit(const StepPlan& plan) = 0;
};

}  // namespace penstock
