#include "frontend/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>

#include <algorithm>
#include <climits>

#include "absl/time/clock.h"
#include "frontend/generate_handler.h"
#include "frontend/model_info_handler.h"
#include "frontend/rpc_status.h"
#include "penstock/v1/inference.grpc.pb.h"

namespace penstock {
namespace {

// Generate takes raw bytes: gRPC's own parser would answer INTERNAL to what a client got wrong.
class InferenceService final
    : public v1::Inference::WithRawCallbackMethod_Generate<
          v1::Inference::WithCallbackMethod_GetModelInfo<v1::Inference::Service>> {
 public:
  InferenceService(const ServiceState& state, TaskThread& delivery)
      : state_(state), delivery_(delivery) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override {
    return StartGenerate(state_, delivery_, context, *request);
  }

  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest*,
                                         v1::GetModelInfoResponse* response) override {
    const absl::StatusOr<ModelRuntime*> runtime = state_.Ready();
    if (runtime.ok()) *response = ModelInfo(**runtime);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToRpcStatus(runtime.status()));
    return reactor;
  }

 private:
  const ServiceState& state_;
  TaskThread& delivery_;
};

}  // namespace

GrpcServer::GrpcServer()
    : inference_(std::make_unique<InferenceService>(state_, delivery_)),
      health_([this] { return state_.Serving(); }) {}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options) {
  if (options.listen.has_value()) PENSTOCK_RETURN_IF_ERROR(CheckListenAddress(*options.listen));
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::unique_ptr<GrpcServer> server(new GrpcServer());
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(
      static_cast<int>(std::clamp<int64_t>(options.max_message_bytes, 0, INT_MAX)));
  int port = 0;
  if (options.listen.has_value()) {
    builder.AddListeningPort(options.listen->ToString(), grpc::InsecureServerCredentials(), &port);
  }
  builder.RegisterService(server->inference_.get());
  builder.RegisterService(&server->health_);
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr) {
    // Free a moment ago, so another program was quicker.
    PENSTOCK_RETURN_IF_ERROR(CheckListenAddress(*options.listen));
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.listen->ToString(), ": try again"));
  }
  if (options.listen.has_value()) server->address_ = {options.listen->host, port};
  return server;
}

GrpcServer::~GrpcServer() { Shutdown(absl::ZeroDuration()); }

std::shared_ptr<grpc::Channel> GrpcServer::InProcessChannel() {
  return server_->InProcessChannel(grpc::ChannelArguments());
}

void GrpcServer::SetReady(ModelRuntime* runtime) {
  state_.SetReady(runtime);
  health_.Update();
}

void GrpcServer::SetDraining() {
  state_.SetDraining();
  health_.Update();
}

void GrpcServer::Shutdown(absl::Duration grace) {
  health_.EndWatches();
  if (server_ != nullptr) server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
}

}  // namespace penstock
