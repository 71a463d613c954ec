#include "frontend/embedded_worker.h"

#include <utility>

#include "core/base/check.h"
#include "frontend/worker_connection.h"
#include "worker/pipeline_stage.h"

namespace penstock {

EmbeddedWorker::EmbeddedWorker(MakeExecutor make_executor)
    : service_(
          [make = std::move(make_executor)]() -> std::unique_ptr<StageHost> {
            return std::make_unique<PipelineStage>(make(), /*transport=*/nullptr);
          },
          {.version = PENSTOCK_VERSION}) {
  grpc::ServerBuilder builder;
  builder.RegisterService(&service_);
  builder.SetMaxReceiveMessageSize(-1);  // the front end limits its own plans
  server_ = builder.BuildAndStart();
  PENSTOCK_CHECK(server_ != nullptr);  // without a port there is nothing that could fail
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  channel_ = server_->InProcessChannel(arguments);
}

EmbeddedWorker::EmbeddedWorker(std::unique_ptr<StageExecutor> executor)
    : EmbeddedWorker(
          [kept = std::make_shared<std::unique_ptr<StageExecutor>>(std::move(executor))] {
            PENSTOCK_CHECK(*kept != nullptr);
            return std::move(*kept);
          }) {}

EmbeddedWorker::~EmbeddedWorker() {
  channel_.reset();
  server_->Shutdown();
}

std::unique_ptr<StageConnection> EmbeddedWorker::Connect(int32_t stage, EventCallback events) {
  PENSTOCK_CHECK_EQ(stage, 0);
  return std::make_unique<WorkerConnection>(
      [channel = channel_] { return channel; },
      WorkerConnectionOptions{.name = "the stage", .version = PENSTOCK_VERSION}, std::move(events));
}

}  // namespace penstock
