#include "frontend/health_service.h"

#include <utility>

namespace penstock {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// One Watch call; it sends the state whenever that is not what it sent last.
class HealthService::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse>,
                                     public std::enable_shared_from_this<Watcher> {
 public:
  Watcher(HealthService& service, std::string name) : service_(service), name_(std::move(name)) {}

  const std::string& name() const { return name_; }

  void Set(ServingStatus status) {
    std::lock_guard<std::mutex> lock(mutex_);
    wanted_ = status;
    WriteIfChanged();
  }
  void End(const grpc::Status& status) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!std::exchange(finished_, true)) Finish(status);
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard<std::mutex> lock(mutex_);
    writing_ = false;
    if (ok) WriteIfChanged();
  }
  void OnCancel() override { End(grpc::Status::CANCELLED); }
  void OnDone() override { service_.Remove(shared_from_this()); }

 private:
  // REQUIRES: mutex_ held.
  void WriteIfChanged() {
    if (writing_ || finished_ || wanted_ == response_.status()) return;
    response_.set_status(wanted_);
    writing_ = true;
    StartWrite(&response_);
  }

  HealthService& service_;
  const std::string name_;
  std::mutex mutex_;
  // All below is guarded by mutex_. Every state that is sent differs from UNKNOWN, the first.
  HealthCheckResponse response_;
  ServingStatus wanted_ = HealthCheckResponse::UNKNOWN;
  bool writing_ = false;
  bool finished_ = false;
};

HealthService::HealthService(std::function<bool()> serving) : serving_(std::move(serving)) {}

HealthService::~HealthService() = default;

HealthService::ServingStatus HealthService::Status(const std::string& service) const {
  if (!service.empty() && service != "penstock.v1.Inference") {
    return HealthCheckResponse::SERVICE_UNKNOWN;
  }
  return serving_() ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
}

void HealthService::Update() {
  std::set<std::shared_ptr<Watcher>> watchers;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    watchers = watchers_;
  }
  for (const std::shared_ptr<Watcher>& watcher : watchers) watcher->Set(Status(watcher->name()));
}

void HealthService::EndWatches() {
  std::set<std::shared_ptr<Watcher>> watchers;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    watchers = watchers_;
  }
  for (const std::shared_ptr<Watcher>& watcher : watchers) {
    watcher->End({grpc::StatusCode::UNAVAILABLE, "the server is shutting down"});
  }
}

void HealthService::Remove(const std::shared_ptr<Watcher>& watcher) {
  std::lock_guard<std::mutex> lock(mutex_);
  watchers_.erase(watcher);
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const ServingStatus status = Status(request->service());
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    reactor->Finish({grpc::StatusCode::NOT_FOUND,
                     "unknown service: ask for \"\" or \"penstock.v1.Inference\""});
    return reactor;
  }
  response->set_status(status);
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext*, const HealthCheckRequest* request) {
  const auto watcher = std::make_shared<Watcher>(*this, request->service());
  bool ended = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    watchers_.insert(watcher);
    ended = ended_;
  }
  // After the insertion, so that no change is missed; an older answer cannot follow a newer one,
  // since both are asked for here and now.
  watcher->Set(Status(watcher->name()));
  if (ended) watcher->End({grpc::StatusCode::UNAVAILABLE, "the server is shutting down"});
  return watcher.get();
}

}  // namespace penstock
