// Deadline: until when a wait may last, by the monotonic clock.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>

#include "absl/time/time.h"

namespace penstock {

class Deadline {
 public:
  // `limit` counts from now. More than a year is for ever.
  explicit Deadline(absl::Duration limit) : limit_(limit) {
    if (limit < absl::Hours(24 * 365)) {
      at_ = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(limit);
    }
  }

  // Waits until `condition` holds: false if time has run out before. `lock` is held around it.
  template <typename Condition>
  bool Wait(std::condition_variable& changed, std::unique_lock<std::mutex>& lock,
            Condition condition) const {
    if (at_.has_value()) return changed.wait_until(lock, *at_, condition);
    changed.wait(lock, condition);
    return true;
  }

  // What is left, 0 at least; for ever is InfiniteDuration.
  absl::Duration left() const {
    if (!at_.has_value()) return absl::InfiniteDuration();
    return std::max(absl::ZeroDuration(),
                    absl::FromChrono(*at_ - std::chrono::steady_clock::now()));
  }
  absl::Duration limit() const { return limit_; }  // as it was given, for messages

 private:
  absl::Duration limit_;
  std::optional<std::chrono::steady_clock::time_point> at_;  // none: for ever
};

}  // namespace penstock
