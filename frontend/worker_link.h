// WorkerLink: a StageLink over a gRPC channel to a worker: one Control stream, one write and one
// read in flight. Once the stream has broken, every plan in flight, and every later one, is
// answered with the reason.
// Thread rule: Load and SetResultCallback from one thread, before the first Submit; Submit from
// one thread at a time.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "frontend/stage_link.h"

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
  class Stream;
  const std::unique_ptr<Stream> stream_;
};

}  // namespace penstock
