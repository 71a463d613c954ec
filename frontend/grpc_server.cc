#include "frontend/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>

#include <algorithm>
#include <climits>

#include "absl/time/clock.h"
#include "frontend/generate_codec.h"
#include "frontend/generate_handler.h"
#include "frontend/model_info_handler.h"
#include "frontend/rpc_status.h"
#include "frontend/tokenize_handler.h"
#include "penstock/v1/inference.grpc.pb.h"

namespace penstock {
namespace {

// A method's answer, and its bytes once the request's have been read.
template <typename Request, typename Answer>
absl::Status AnswerBytes(const ServiceState& state, const grpc::ByteBuffer& bytes, Answer answer,
                         grpc::ByteBuffer* response) {
  PENSTOCK_ASSIGN_OR_RETURN(ModelRuntime* const runtime, state.Ready());
  Request request;
  PENSTOCK_RETURN_IF_ERROR(ParseMessage(bytes, &request));
  PENSTOCK_ASSIGN_OR_RETURN(const auto message, answer(*runtime, request));
  SerializeMessage(message, response);
  return absl::OkStatus();
}

// Every method takes raw bytes: gRPC's own parser would answer INTERNAL to what a client got wrong.
using RawInference = v1::Inference::WithRawCallbackMethod_Generate<
    v1::Inference::WithRawCallbackMethod_GetModelInfo<v1::Inference::WithRawCallbackMethod_Tokenize<
        v1::Inference::WithRawCallbackMethod_Detokenize<v1::Inference::Service>>>>;

class InferenceService final : public RawInference {
 public:
  InferenceService(const ServiceState& state, TaskThread& delivery)
      : state_(state), delivery_(delivery) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override {
    return StartGenerate(state_, delivery_, context, *request);
  }

  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) override {
    return Answer<v1::GetModelInfoRequest>(
        context, *request, response,
        [](const ModelRuntime& runtime, const v1::GetModelInfoRequest&) {
          return absl::StatusOr<v1::GetModelInfoResponse>(ModelInfo(runtime));
        });
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    return Answer<v1::TokenizeRequest>(context, *request, response, &penstock::Tokenize);
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override {
    absl::StatusOr<v1::DetokenizeResponse> (*const answer)(
        const ModelRuntime&, const v1::DetokenizeRequest&) = &penstock::Detokenize;
    return Answer<v1::DetokenizeRequest>(context, *request, response, answer);
  }

 private:
  template <typename Request, typename AnswerFunction>
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer& request, grpc::ByteBuffer* response,
                                   AnswerFunction answer) {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(ToRpcStatus(AnswerBytes<Request>(state_, request, answer, response)));
    return reactor;
  }

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
