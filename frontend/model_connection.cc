#include "frontend/model_connection.h"

#include <utility>

#include "absl/strings/match.h"
#include "frontend/loading_display.h"

namespace penstock {

absl::StatusOr<std::unique_ptr<ModelConnection>> ModelConnection::Open(
    const ModelAddress& address) {
  std::unique_ptr<ModelConnection> connection(new ModelConnection);
  std::shared_ptr<grpc::Channel> channel;
  if (!address.server.empty()) {
    PENSTOCK_ASSIGN_OR_RETURN(const ListenAddress server, ParseListenAddress(address.server));
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    channel =
        grpc::CreateCustomChannel(server.ToString(), grpc::InsecureChannelCredentials(), arguments);
  } else {
    RuntimeOptions options = address.runtime;
    LoadingDisplayOnStderr display;
    options.progress = [&](const LoadProgress& progress) { display.Update(progress); };
    PENSTOCK_ASSIGN_OR_RETURN(connection->runtime_, ModelRuntime::Load(options));
    PENSTOCK_ASSIGN_OR_RETURN(connection->server_, GrpcServer::Start({}));
    connection->server_->SetReady(connection->runtime_.get());
    channel = connection->server_->InProcessChannel();
  }
  connection->client_ = std::make_unique<InferenceClient>(channel);
  return connection;
}

std::string Hint(const absl::Status& status, const std::string& server) {
  if (status.code() == absl::StatusCode::kDeadlineExceeded) {
    return " (allow more time with --timeout, or ask for fewer --max-tokens)";
  }
  const bool ours = absl::StartsWith(status.message(), "the server ");
  if (status.code() == absl::StatusCode::kUnavailable && !ours) {
    return absl::StrCat(" (is a server ready at ", server,
                        "? start one with: penstock serve --model FILE --listen ", server, ")");
  }
  return "";
}

}  // namespace penstock
