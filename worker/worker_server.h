// WorkerServer: where a worker's services can be reached: a Unix socket of this user's, or
// HOST:PORT (who may connect: worker/transport/grpc_credentials.h). Thread rule: none but the
// owner's.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "worker/transport/grpc_credentials.h"
#include "worker/unix_listener.h"

namespace penstock {

struct WorkerServerOptions {
  std::string listen;  // "unix:/path" or HOST:PORT
  TlsFiles tls;
  GrpcTransportOptions transport;
};

class WorkerServer {
 public:
  // The services must outlive it. Errors: those of the address and of the TLS files, with what to
  // do.
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(
      const WorkerServerOptions& options, const std::vector<grpc::Service*>& services);
  // Breaks off what runs.
  ~WorkerServer();
  WorkerServer(const WorkerServer&) = delete;
  WorkerServer& operator=(const WorkerServer&) = delete;

  // Where it listens, with the port that it got.
  const std::string& address() const { return address_; }

 private:
  WorkerServer() = default;

  std::string address_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<UnixListener> listener_;  // last: gives connections to the server
};

}  // namespace penstock
