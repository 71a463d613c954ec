// EmbeddedWorker: a worker inside this process: the worker service, its stage and a server without
// a port, reached over gRPC's in-process channel.
// Thread rule: none but the owner's.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "worker/stage.h"
#include "worker/worker_service.h"

namespace penstock {

class EmbeddedWorker {
 public:
  explicit EmbeddedWorker(std::unique_ptr<StageExecutor> executor);
  // Ends its streams and waits for the plan that runs. REQUIRES: the links on its channel are gone.
  ~EmbeddedWorker();
  EmbeddedWorker(const EmbeddedWorker&) = delete;
  EmbeddedWorker& operator=(const EmbeddedWorker&) = delete;

  std::shared_ptr<grpc::Channel> channel() const { return channel_; }

 private:
  WorkerService service_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace penstock
