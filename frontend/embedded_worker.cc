#include "frontend/embedded_worker.h"

#include <utility>

#include "core/base/check.h"

namespace penstock {

EmbeddedWorker::EmbeddedWorker(std::unique_ptr<StageExecutor> executor)
    : service_(std::move(executor)) {
  grpc::ServerBuilder builder;
  builder.RegisterService(&service_);
  builder.SetMaxReceiveMessageSize(-1);  // the front end limits its own plans
  server_ = builder.BuildAndStart();
  PENSTOCK_CHECK(server_ != nullptr);  // without a port there is nothing that could fail
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  channel_ = server_->InProcessChannel(arguments);
}

EmbeddedWorker::~EmbeddedWorker() {
  channel_.reset();
  server_->Shutdown();
}

}  // namespace penstock
