// HealthService: grpc.health.v1 for the whole server ("") and for penstock.v1.Inference, which
// share one state. gRPC's own begins as SERVING; this one asks.
// Thread rule: any thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "grpc/health/v1/health.grpc.pb.h"

namespace penstock {

class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  // `serving` is asked at every Check and Update; must not block for long.
  explicit HealthService(std::function<bool()> serving);
  ~HealthService() override;

  // Tells the watchers if the answer has changed.
  void Update();
  // Ends every Watch, now and from now on, so that the server can shut down.
  void EndWatches();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  class Watcher;
  using ServingStatus = grpc::health::v1::HealthCheckResponse::ServingStatus;

  ServingStatus Status(const std::string& service) const;
  void Remove(const std::shared_ptr<Watcher>& watcher);

  const std::function<bool()> serving_;

  std::mutex mutex_;
  std::set<std::shared_ptr<Watcher>> watchers_;  // guarded by mutex_
  bool ended_ = false;                           // guarded by mutex_
};

}  // namespace penstock
