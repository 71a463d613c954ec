// WorkerService: one stage as the gRPC service penstock.worker.v1.Worker. It owns the stage and
// its thread: gRPC's callbacks only enqueue, the stage thread loads and executes in the order of
// the requests, whatever stream they came on.
//
// While it loads, the stage tells how far it has come, ten times a second at most.
//
// A request that the stage cannot do is answered with an Error, and that ends its epoch: the plans
// of the same epoch that follow on the stream are answered with that error, unexecuted. A client
// that leaves takes its unexecuted requests with it.
// Thread rule: gRPC's. It must outlive its server.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <utility>

#include "core/base/task_thread.h"
#include "penstock/worker/v1/worker.grpc.pb.h"
#include "worker/stage.h"

namespace penstock {

class WorkerService final : public worker::v1::Worker::CallbackService {
 public:
  explicit WorkerService(std::unique_ptr<StageExecutor> executor)
      : executor_(std::move(executor)) {}

  grpc::ServerBidiReactor<worker::v1::ControlRequest, worker::v1::ControlResponse>* Control(
      grpc::CallbackServerContext* context) override;

 private:
  const std::unique_ptr<StageExecutor> executor_;  // the stage thread's own
  TaskThread stage_thread_;                        // last: it ends before the executor does
};

}  // namespace penstock
