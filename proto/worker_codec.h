// Between the messages of penstock.worker.v1 and core's plain structs. Encoding cannot fail.
// Decoding trusts nothing: a number that no honest peer would send is INVALID_ARGUMENT with the
// field and its value, and what passes fits the types and ranges that core's headers state. What
// depends on the model (slots, blocks, the vocabulary) is the stage's and the coordinator's to
// check. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "core/base/status.h"
#include "core/sched/stage_types.h"
#include "core/sched/step_plan.h"
#include "penstock/worker/v1/worker.pb.h"
#include "proto/worker_protocol.h"

namespace penstock {

// What both ends of a control stream open it with.
struct WorkerHello {
  uint32_t protocol = kWorkerProtocol;  // any number passes the codec: it is the ends' to compare
  std::string version;                  // of the program
  int64_t pid = 0;                      // of the worker
  int64_t beat_ns = 0;                  // how often the front end wants a beat
};

void EncodeHello(const WorkerHello& hello, worker::v1::Hello* message);
absl::StatusOr<WorkerHello> DecodeHello(const worker::v1::Hello& message);

void EncodeStageOptions(const StageOptions& options, worker::v1::LoadRequest* message);
absl::StatusOr<StageOptions> DecodeStageOptions(const worker::v1::LoadRequest& message);

void EncodeLoadProgress(const LoadProgress& progress, worker::v1::LoadProgress* message);
absl::StatusOr<LoadProgress> DecodeLoadProgress(const worker::v1::LoadProgress& message);

void EncodeStageInfo(const StageInfo& info, worker::v1::LoadResponse* message);
absl::StatusOr<StageInfo> DecodeStageInfo(const worker::v1::LoadResponse& message);

void EncodeEpochStart(const EpochStart& start, worker::v1::EpochStart* message);
absl::StatusOr<EpochStart> DecodeEpochStart(const worker::v1::EpochStart& message);

void EncodeBeat(const StageBeat& beat, worker::v1::Beat* message);
absl::StatusOr<StageBeat> DecodeBeat(const worker::v1::Beat& message);

void EncodeStepPlan(const StepPlan& plan, worker::v1::StepPlan* message);
absl::StatusOr<StepPlan> DecodeStepPlan(const worker::v1::StepPlan& message);

void EncodeStepResult(const StepResult& result, worker::v1::StepResult* message);
absl::StatusOr<StepResult> DecodeStepResult(const worker::v1::StepResult& message);

// REQUIRES: status is not OK.
void EncodeError(const absl::Status& status, worker::v1::Error* message);
// Never OK: a code that is none becomes INTERNAL.
absl::Status DecodeError(const worker::v1::Error& message);

}  // namespace penstock
