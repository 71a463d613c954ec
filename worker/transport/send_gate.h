// SendGate: how many transfers more the receiver has room for, as the sending end of a lane knows
// it. A transfer passes the gate before it leaves.
// Thread rule: any thread; one waits at a time.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

#include "core/base/status.h"
#include "worker/transport/deadline.h"

namespace penstock {

class SendGate {
 public:
  // Takes room for one transfer, waiting for it. Errors: why the gate was closed, at once;
  // DEADLINE_EXCEEDED.
  absl::Status Pass(const Deadline& deadline) {
    return Pass(deadline, [] { return true; });
  }
  // And for what else it needs: `take` gets it, or says false. It is called where there is room for
  // a transfer, again after each Add, until it has got it; not from Add's thread.
  absl::Status Pass(const Deadline& deadline, const std::function<bool()>& take);
  // The receiver has room for `transfers` more.
  void Add(int64_t transfers);
  // Nothing passes any more. The first reason stays.
  void Close(const absl::Status& reason);
  // Why it was closed.
  absl::Status closed() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return closed_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t room_ = 0;     // guarded by mutex_
  absl::Status closed_;  // guarded by mutex_; OK: open
};

}  // namespace penstock
