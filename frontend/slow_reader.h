// SlowReader: how much of a stream waits for a client that does not read it, and until when that is
// borne. A stream may hold max_bytes for as long as it likes, more for `timeout`, and
// kMostTimes as much not at all: so its memory is bounded, and a client that pauses is not cut.
// Thread rule: one thread at a time.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace penstock {

class SlowReader {
 public:
  static constexpr int64_t kMostTimes = 4;

  // REQUIRES: max_bytes > 0.
  SlowReader(int64_t max_bytes, absl::Duration timeout)
      : max_bytes_(max_bytes), timeout_(timeout) {}

  // So much more waits at `now`, or less.
  void Change(int64_t bytes, absl::Time now) {
    bytes_ += bytes;
    if (bytes_ <= max_bytes_) {
      over_since_ = absl::InfiniteFuture();
    } else if (over_since_ == absl::InfiniteFuture()) {
      over_since_ = now;
    }
  }

  // When the stream is to be cut as things are: InfiniteFuture never, InfinitePast at once.
  absl::Time cut_at() const {
    if (bytes_ > kMostTimes * max_bytes_) return absl::InfinitePast();
    return over_since_ + timeout_;
  }
  int64_t bytes() const { return bytes_; }

 private:
  const int64_t max_bytes_;
  const absl::Duration timeout_;
  int64_t bytes_ = 0;
  absl::Time over_since_ = absl::InfiniteFuture();
};

}  // namespace penstock
