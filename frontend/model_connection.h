// ModelConnection: a client of a model, wherever that runs: a server's, or one in this process,
// where the very same service is reached over gRPC's in-process channel.
// Thread rule: the owner's thread; what its client allows from any.
#pragma once

#include <memory>
#include <string>

#include "core/base/status.h"
#include "frontend/grpc_server.h"
#include "frontend/inference_client.h"
#include "frontend/model_runtime.h"

namespace penstock {

struct ModelAddress {
  std::string server;      // HOST:PORT; empty: runtime.stage.model is loaded
  RuntimeOptions runtime;  // without a server
};

class ModelConnection {
 public:
  // With a server nothing is sent yet. Loading is shown on standard error.
  // Errors: those of the address and of ModelRuntime::Load.
  static absl::StatusOr<std::unique_ptr<ModelConnection>> Open(const ModelAddress& address);

  InferenceClient& client() { return *client_; }
  // Null with a server.
  const ModelRuntime* runtime() const { return runtime_.get(); }

 private:
  ModelConnection() = default;

  std::unique_ptr<ModelRuntime> runtime_;  // before the server, which uses it until it is gone
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<InferenceClient> client_;
};

// What to do about an error of a call, where the message does not come from our server, which says
// it. Begins with a space, or is empty.
std::string Hint(const absl::Status& status, const std::string& server);

}  // namespace penstock
