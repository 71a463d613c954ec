// Between the messages of penstock.worker.v1 and core's plain structs. Encoding cannot fail.
// Decoding trusts nothing: a number that no honest peer would send is INVALID_ARGUMENT with the
// field and its value, and what passes fits the types and ranges that core's headers state. What
// depends on the model (slots, blocks, the vocabulary) is the stage's and the coordinator's to
// check. Pure functions, thread-safe.
#pragma once

#include "core/base/status.h"
#include "core/sched/stage_types.h"
#include "core/sched/step_plan.h"
#include "penstock/worker/v1/worker.pb.h"

namespace penstock {

void EncodeStageOptions(const StageOptions& options, worker::v1::LoadRequest* message);
absl::StatusOr<StageOptions> DecodeStageOptions(const worker::v1::LoadRequest& message);

void EncodeLoadProgress(const LoadProgress& progress, worker::v1::LoadProgress* message);
absl::StatusOr<LoadProgress> DecodeLoadProgress(const worker::v1::LoadProgress& message);

void EncodeStageInfo(const StageInfo& info, worker::v1::LoadResponse* message);
absl::StatusOr<StageInfo> DecodeStageInfo(const worker::v1::LoadResponse& message);

void EncodeStepPlan(const StepPlan& plan, worker::v1::StepPlan* message);
absl::StatusOr<StepPlan> DecodeStepPlan(const worker::v1::StepPlan& message);

void EncodeStepResult(const StepResult& result, worker::v1::StepResult* message);
absl::StatusOr<StepResult> DecodeStepResult(const worker::v1::StepResult& message);

// REQUIRES: status is not OK.
void EncodeError(const absl::Status& status, worker::v1::Error* message);
// Never OK: a code that is none becomes INTERNAL.
absl::Status DecodeError(const worker::v1::Error& message);

}  // namespace penstock
