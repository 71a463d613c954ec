// Stage: one worker's part of the pipeline. It owns the weights of its layers and the KV bytes of
// its blocks, and executes plans in number order.
// Thread rule: one thread at a time.
#pragma once

#include <functional>
#include <memory>

#include "core/base/status.h"
#include "core/sched/stage_types.h"
#include "core/sched/step_plan.h"

namespace penstock {

// The interface that the coordinator's links drive; tests put a fake behind it.
class StageExecutor {
 public:
  virtual ~StageExecutor() = default;
  // Calls `progress` on this thread as the loading goes on, for every tensor.
  using ProgressCallback = std::function<void(const LoadProgress&)>;
  virtual absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                         const ProgressCallback& progress) = 0;
  absl::StatusOr<StageInfo> Load(const StageOptions& options) {
    return Load(options, [](const LoadProgress&) {});
  }
  // Errors: FAILED_PRECONDITION for a plan that this stage cannot run (before Load, wrong
  // generation, a block or position out of range): the epoch ends.
  virtual absl::StatusOr<StepResult> Execute(const StepPlan& plan) = 0;
};

// The real one, on the CPU backend.
std::unique_ptr<StageExecutor> MakeCpuStage();

}  // namespace penstock
