// EmbeddedWorker: a worker inside this process: the worker service, its stage and a server without
// a port, reached over gRPC's in-process channel. As a StageProvider it has the one stage of a
// pipeline of one. It is one failure domain: what kills the stage kills the process.
// Thread rule: none but the owner's.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "frontend/stage_connection.h"
#include "worker/worker_service.h"

namespace penstock {

class EmbeddedWorker final : public StageProvider {
 public:
  // `make_executor` is called for each connection.
  using MakeExecutor = std::function<std::unique_ptr<StageExecutor>()>;
  explicit EmbeddedWorker(MakeExecutor make_executor);
  // Of one connection: the stage that it leaves is not there for another.
  explicit EmbeddedWorker(std::unique_ptr<StageExecutor> executor);
  // Ends its streams and waits for the plan that runs. REQUIRES: its connections are gone.
  ~EmbeddedWorker() override;
  EmbeddedWorker(const EmbeddedWorker&) = delete;
  EmbeddedWorker& operator=(const EmbeddedWorker&) = delete;

  // REQUIRES: stage is 0.
  std::unique_ptr<StageConnection> Connect(int32_t stage, EventCallback events) override;

  std::shared_ptr<grpc::Channel> channel() const { return channel_; }

 private:
  WorkerService service_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace penstock
