// WorkerLink: a StageLink over a WorkerConnection: one epoch, until anything fails. Then every plan
// in flight, and every later one, is answered with the reason.
// Thread rule: Load and SetResultCallback from one thread, before the first Submit; Submit from
// one thread at a time.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>

#include "frontend/stage_link.h"
#include "frontend/worker_connection.h"

namespace penstock {

class WorkerLink final : public StageLink {
 public:
  explicit WorkerLink(std::shared_ptr<grpc::Channel> channel);
  // Cancels the stream and waits for its last callback.
  ~WorkerLink() override;

  using StageLink::Load;
  absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                 const ProgressCallback& progress) override;
  void SetResultCallback(ResultCallback callback) override;
  void Submit(const StepPlan& plan) override;

 private:
  void OnEvent(StageEvent event);
  void Fail(const absl::Status& status);

  ResultCallback callback_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  const ProgressCallback* progress_ = nullptr;  // Load's
  std::optional<StageInfo> info_;
  bool entered_ = false;
  int in_flight_ = 0;                             // plans without an answer
  absl::Status failure_;                          // OK while plans can be answered
  std::unique_ptr<WorkerConnection> connection_;  // last: its events use the rest
};

}  // namespace penstock
