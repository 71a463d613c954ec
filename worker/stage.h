// Stage: one worker's part of the pipeline. It owns the weights of its layers and the KV bytes of
// its blocks, and executes plans in number order. It neither sends nor waits: PipelineStage
// (worker/pipeline_stage.h) puts it between its neighbours.
// Thread rule: one thread at a time.
#pragma once

#include <functional>
#include <memory>

#include "core/base/status.h"
#include "core/sched/stage_types.h"
#include "core/sched/step_plan.h"
#include "core/tensor/tensor.h"

namespace penstock {

// Where the mail of the next plan lies (core/tensor/device_mail.h), with options.device_mail;
// device addresses, null where the stage has no such neighbour in the epoch.
struct StageMail {
  const void* in = nullptr;  // this stage's mailbox: of tokens on the first, else of rows
  int64_t in_bytes = 0;      // of it, without the flags
  void* out = nullptr;       // the next stage's; on the last stage the first one's
  int64_t out_offset = 0;    // of the rows, behind the flags
};

// What PipelineStage drives; tests put a fake behind it.
class StageExecutor {
 public:
  virtual ~StageExecutor() = default;
  // Calls `progress` on this thread as the loading goes on, for every tensor.
  using ProgressCallback = std::function<void(const LoadProgress&)>;
  // Errors: INVALID_ARGUMENT for options that do not fit the model, FAILED_PRECONDITION for another
  // model than options.model_hash says or a second call; the file's and the allocator's.
  virtual absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                         const ProgressCallback& progress) = 0;
  absl::StatusOr<StageInfo> Load(const StageOptions& options) {
    return Load(options, [](const LoadProgress&) {});
  }
  // Empties all slots and forgets all tokens; plans may name start.num_blocks blocks from now on.
  // Errors: FAILED_PRECONDITION if those are more than the stage has.
  virtual absl::Status BeginEpoch(const EpochStart& /*start*/) { return absl::OkStatus(); }
  // Errors: FAILED_PRECONDITION for a plan that this stage cannot run (before Load, wrong
  // generation, a block or position out of range): the epoch ends. With mail those of
  // DeviceMail::Take too, and then the times are the device's. REQUIRES: nothing is begun (below).
  virtual absl::StatusOr<StepResult> Execute(const StepPlan& plan) = 0;

  // Execute in two parts, where a plan may be begun while the one before it runs: a stage alone on
  // its device, which then goes from one to the next without the host. Known once it has loaded.
  virtual bool runs_ahead() const { return false; }
  // Whether the plan can be begun now: always if none has, else if nothing that the host needs for
  // it comes from the one that has. At most two are begun.
  virtual bool CanBegin(const StepPlan& /*plan*/) const { return false; }
  // The plan stays until its Finish. Errors: Execute's; it is not begun then. REQUIRES: CanBegin.
  virtual absl::Status Begin(const StepPlan& /*plan*/) { return NotAhead(); }
  // Whether Finish has nothing to wait for.
  virtual bool IsDone() const { return true; }
  // The result of the plan that was begun first. Its times are those on the device: it starts when
  // it has been begun and the one before is done. Errors: Execute's. REQUIRES: one is begun.
  virtual absl::StatusOr<StepResult> Finish() { return NotAhead(); }

  // With options.device_mail: for the next Execute.
  virtual void SetMail(const StageMail& /*mail*/) {}
  // What waits for mail comes back, until the next BeginEpoch; and whether something does. Any
  // thread, once it has loaded.
  virtual void CancelMail() {}
  virtual bool waits_for_mail() const { return false; }

  // What a stage of several takes and leaves beside plan and result. Rows and TokenRows are views
  // of memory made while loading: any thread may ask for them, their bytes belong to the thread of
  // Execute. An executor that only ever runs whole models needs none of these.

  // [num_tokens, hidden] f32, the residual stream, on the host, or with options.rows_stay() where
  // the stage computes, which has ended when Execute returns: what goes into the first layer (all
  // stages but the first; put there before Execute, or by mail in it) and what has come out of the
  // last one (all but the last).
  virtual Tensor Rows(int64_t /*num_tokens*/) { return {}; }
  // [num_samples, kTokenRowSize] i64, one row a sample of a plan (worker/token_mailbox.h): the last
  // stage leaves them here, on the first they are put here for TakeTokens.
  virtual Tensor TokenRows(int64_t /*num_samples*/) { return {}; }
  // The first of several stages: TokenRows(num_samples) are those of this plan. To be called before
  // Execute of the first plan with a row whose token_from is that plan. Errors: FAILED_PRECONDITION
  // for rows that name no slot or token.
  virtual absl::Status TakeTokens(uint32_t /*epoch*/, uint64_t /*plan*/, int64_t /*num_samples*/) {
    return absl::OkStatus();
  }
  // Rows that were void since loading. Any thread.
  virtual int64_t voids() const { return 0; }
  // Any thread, once it has loaded.
  virtual DeviceMemory device_memory() const { return {}; }

 private:
  static absl::Status NotAhead() {
    return absl::UnimplementedError("this stage runs no plan ahead: call Execute");
  }
};

// The real one, on the backend that the options of Load name.
std::unique_ptr<StageExecutor> MakeModelStage();

}  // namespace penstock
