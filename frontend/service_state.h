// ServiceState: what the services of one server share: whether a model is there to answer, and
// which. It goes one way: loading, ready, draining.
// Thread rule: any thread.
#pragma once

#include <mutex>

#include "core/base/status.h"
#include "frontend/model_runtime.h"

namespace penstock {

class ServiceState {
 public:
  // REQUIRES: the runtime outlives the server.
  void SetReady(ModelRuntime* runtime) {
    std::lock_guard<std::mutex> lock(mutex_);
    runtime_ = runtime;
  }
  void SetDraining() {
    std::lock_guard<std::mutex> lock(mutex_);
    draining_ = true;
  }

  // The runtime, if it takes requests. Errors: UNAVAILABLE while loading and draining.
  absl::StatusOr<ModelRuntime*> Ready() const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (draining_) {
      return absl::UnavailableError("the server is shutting down: try another one");
    }
    if (runtime_ == nullptr) {
      return absl::UnavailableError("the server is loading its model: try again in a moment");
    }
    return runtime_;
  }

  // What the health service says.
  bool Serving() const {
    const absl::StatusOr<ModelRuntime*> runtime = Ready();
    return runtime.ok() && (*runtime)->engine().ready();
  }

 private:
  mutable std::mutex mutex_;
  ModelRuntime* runtime_ = nullptr;  // guarded by mutex_
  bool draining_ = false;            // guarded by mutex_
};

}  // namespace penstock
