// GrpcServer: penstock.v1.Inference, health and reflection on one port, or on none for the
// in-process channel alone. It answers from the start: UNAVAILABLE and NOT_SERVING until SetReady.
//
// To stop: SetDraining, let the engine drain, then Shutdown.
// Thread rule: any thread; Shutdown once.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "core/base/listen_address.h"
#include "core/base/status.h"
#include "core/base/task_thread.h"
#include "frontend/health_service.h"
#include "frontend/service_state.h"

namespace penstock {

struct GrpcServerOptions {
  std::optional<ListenAddress> listen;  // none: in-process only
  int64_t max_message_bytes = 4 << 20;  // of a client's request
};

class GrpcServer {
 public:
  // Errors: those of CheckListenAddress.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcServerOptions& options);
  // Cancels the calls that are left. REQUIRES: the runtime is still there.
  ~GrpcServer();

  // Where it listens, with the real port. REQUIRES: it has a port.
  const ListenAddress& address() const { return *address_; }
  std::shared_ptr<grpc::Channel> InProcessChannel();

  // Requests are answered from now on. REQUIRES: the runtime outlives the server.
  void SetReady(ModelRuntime* runtime);
  // New requests get UNAVAILABLE from now on, and health says NOT_SERVING.
  void SetDraining();
  // Tells health watchers what has changed. To be called now and then: an engine that has lost its
  // stage says so to nobody.
  void UpdateHealth() { health_.Update(); }
  // Closes the port, gives the calls that still write `grace`, then cancels them.
  void Shutdown(absl::Duration grace);

 private:
  GrpcServer();

  ServiceState state_;
  TaskThread delivery_;
  std::unique_ptr<grpc::Service> inference_;
  HealthService health_;
  std::optional<ListenAddress> address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace penstock
