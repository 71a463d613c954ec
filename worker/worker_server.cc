#include "worker/worker_server.h"

#include <grpcpp/server_posix.h>

#include <chrono>
#include <climits>
#include <utility>

#include "core/base/listen_address.h"

namespace penstock {

absl::StatusOr<std::unique_ptr<WorkerServer>> WorkerServer::Start(
    const WorkerServerOptions& options, const std::vector<grpc::Service*>& services) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ServerCredentials> credentials,
                            MakeServerCredentials(options.listen, options.tls));
  std::unique_ptr<WorkerServer> made(new WorkerServer());
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  ConfigureTransferServer(options.transport, builder);
  builder.SetMaxReceiveMessageSize(INT_MAX);  // a plan with the histories of all its sequences
  for (grpc::Service* const service : services) builder.RegisterService(service);

  if (options.listen.rfind("unix:", 0) == 0) {
    made->server_ = builder.BuildAndStart();
    if (made->server_ == nullptr) return absl::InternalError("gRPC starts no server: try again");
    PENSTOCK_ASSIGN_OR_RETURN(
        made->listener_,
        UnixListener::Listen(options.listen.substr(5), [server = made->server_.get()](int fd) {
          grpc::AddInsecureChannelFromFd(server, fd);
        }));
    made->address_ = options.listen;
    return made;
  }

  PENSTOCK_ASSIGN_OR_RETURN(ListenAddress listen, ParseListenAddress(options.listen));
  PENSTOCK_RETURN_IF_ERROR(CheckListenAddress(listen));
  builder.AddListeningPort(listen.ToString(), credentials, &listen.port);
  made->server_ = builder.BuildAndStart();
  if (made->server_ == nullptr) {
    PENSTOCK_RETURN_IF_ERROR(CheckListenAddress(listen));
    if (options.tls.empty()) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", options.listen, ": try again"));
    }
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", options.listen, " with TLS: see that --tls-key (",
                     options.tls.key, ") is the key of --tls-cert (", options.tls.cert, ")"));
  }
  made->address_ = listen.ToString();
  return made;
}

WorkerServer::~WorkerServer() {
  listener_.reset();
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

}  // namespace penstock
