// PipelineStage: one stage's place in the pipeline. It owns an executor, the stream that the
// executor works on, and the lanes to the neighbours; it turns a plan into receive, compute, send
// and result, enqueued on the stream, so that plans may be given ahead.
//
// Thread rule: as StageHost. Callbacks come on the stream's thread and must not block or call back
// into the stage.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>

#include "worker/plan_check.h"
#include "worker/stage_host.h"
#include "worker/transport/peer_transport.h"
#include "worker/transport/stream.h"
#include "worker/transport/transport.h"

namespace penstock {

class PipelineStage final : public StageHost {
 public:
  // `transport` must outlive the stage; null for a stage that will be alone. With
  // options.mailbox_bytes rows go by a peer transport of the stage's own, and only tokens by it;
  // with options.device_mail not even those. With options.nccl it carries tokens and headers.
  // REQUIRES: its window is at least kMaxPlansAhead, for sampled tokens wait there until a later
  // plan comes.
  PipelineStage(std::unique_ptr<StageExecutor> executor, Transport* transport);
  ~PipelineStage() override;
  PipelineStage(const PipelineStage&) = delete;
  PipelineStage& operator=(const PipelineStage&) = delete;

  // Errors: the executor's; those of peer memory; FAILED_PRECONDITION for one of several stages
  // without a transport.
  absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                 const ProgressCallback& progress) override;

  // Ends the epoch before it, cancelling what waits, then enters the new one: empties the executor,
  // opens the receiving ends, then connects the sending ones, so that stages which do this at the
  // same time find each other in any order. start.connect_ns 0: for ever. Errors: the transport's;
  // FAILED_PRECONDITION for a start that does not fit this stage; CANCELLED once abandoned. The
  // stage is then in no epoch: plans are dropped, a later start may be tried.
  absl::Status BeginEpoch(const EpochStart& start) override;

  // A plan that cannot be run (CheckPlan, its number, its epoch) is answered by FAILED_PRECONDITION
  // or UNIMPLEMENTED; an input or a send that takes longer than plan.limit_ns by
  // DEADLINE_EXCEEDED; a dead neighbour by UNAVAILABLE.
  void Submit(const StepPlan& plan, ResultCallback callback) override;
  void Abandon() override;
  StageBeat beat() const override;

 private:
  struct Job;
  // Sampled tokens that the last stage will send.
  struct Transfer {
    uint64_t plan = 0;
    int64_t samples = 0;
  };
  struct Lanes {
    std::unique_ptr<ReceiveLane> rows_in;
    std::unique_ptr<ReceiveLane> tokens_in;
    std::unique_ptr<SendLane> rows_out;
    std::unique_ptr<SendLane> tokens_out;
    // In their place with options.device_mail.
    std::unique_ptr<MailReceiver> mail_in;
    std::unique_ptr<MailSender> mail_out;
  };

  bool is_first() const { return options_.stage == 0; }
  bool is_last() const { return options_.stage + 1 == options_.num_stages; }
  bool by_mail() const { return peer_transport_ != nullptr && options_.device_mail; }
  absl::Status MakeMailbox(const StageOptions& options);
  absl::Status MakeNccl(const StageOptions& options);
  absl::Status CheckStart(const EpochStart& start) const;
  absl::Status Connect(const EpochStart& start);
  absl::Status ConnectMail(const EpochStart& start);
  void EndEpoch();
  void CancelLanes();
  bool abandoned();

  // On the caller's thread: enqueue parts of a plan.
  void ReceiveTokens(const std::shared_ptr<Job>& job);
  void ReceiveRows(const std::shared_ptr<Job>& job);
  void SendOutput(const std::shared_ptr<Job>& job);
  // On the stream.
  void Start(Job& job);
  void Compute(Job& job);
  void Advance(const std::shared_ptr<Job>& job);
  void FinishBegun();
  absl::StatusOr<StepResult> ExecuteByMail(const Job& job);
  void Finish(Job& job);
  void SetDoing(StageBeat::Doing doing);
  void SetCurrent(const Job& job);

  // Null both: rows go as tokens do.
  std::unique_ptr<PeerTransport> peer_transport_;
  std::unique_ptr<Transport> nccl_transport_;
  Transport* transport_;  // one of those, or the given one; changed by Load only
  const std::unique_ptr<StageExecutor> executor_;

  // The caller's thread.
  StageOptions options_;
  PlanLimits limits_;
  bool loaded_ = false;
  uint32_t epoch_ = 0;         // the last one that a start has named
  bool taking_plans_ = false;  // an epoch was entered, and all its plans so far could be run
  PlanOrder order_;
  std::deque<Transfer> transfers_;  // the first of several stages: not asked for yet

  std::mutex mutex_;
  // Set and used on the caller's thread, and by the stream until it is fenced; cancelled by any.
  Lanes lanes_;             // changed with mutex_ held
  bool cancelled_ = true;   // guarded by mutex_: the epoch is over, nobody wants an answer
  bool abandoned_ = false;  // guarded by mutex_

  mutable std::mutex beat_mutex_;
  // Guarded by beat_mutex_. That mail has come is seen when somebody asks.
  mutable StageBeat beat_;
  mutable int64_t doing_since_ = 0;  // ns
  int64_t enqueued_at_ = 0;          // ns; of a step that waits for mail, then computes; 0: none

  // The stream's own.
  int64_t last_end_ns_ = 0;           // of the epoch's plan before; 0: none
  bool failed_ = false;               // the epoch's failure has been told
  std::shared_ptr<Job> begun_;        // executor_->runs_ahead(): begun and not finished, or null
  std::atomic<int64_t> waiting_ = 0;  // plans that Advance has not seen

  CpuStream stream_;  // last: its tasks use the rest
};

}  // namespace penstock
