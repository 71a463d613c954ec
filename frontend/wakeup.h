// Wakeup: the one thing that the engine thread sleeps on. Whoever leaves it work (a request, an
// abort, a result, a stop) puts the work down first and then calls Notify.
// Thread rule: Notify from any thread, Wait from one thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/time/time.h"

namespace penstock {

class Wakeup {
 public:
  void Notify() {
    std::lock_guard<std::mutex> lock(mutex_);
    notified_ = true;
    condition_.notify_one();
  }

  // Returns once there has been a Notify since the last return, or `timeout` is over.
  void Wait(absl::Duration timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    // Longer waits would overflow the clock's arithmetic; an early return is harmless.
    const auto limit =
        absl::ToChronoNanoseconds(std::clamp(timeout, absl::ZeroDuration(), absl::Hours(24)));
    condition_.wait_for(lock, limit, [this] { return notified_; });
    notified_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  bool notified_ = false;  // guarded by mutex_
};

}  // namespace penstock
