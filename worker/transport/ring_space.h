// RingSpace: which bytes of a ring are free, as the side that fills it knows it. Parts are taken in
// order and come free in the same order. A part is never cut in two: where it does not fit before
// the end, it begins at 0 and what is left there waits with it.
// Thread rule: any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>

namespace penstock {

class RingSpace {
 public:
  static constexpr int64_t kAlignment = 256;  // of every part's offset

  // REQUIRES: a multiple of kAlignment, > 0.
  explicit RingSpace(int64_t bytes);

  int64_t bytes() const { return bytes_; }
  // The offset of a part of so many bytes, or nothing while there is no room for it. An empty ring
  // has room for bytes(). REQUIRES: 0 <= bytes <= bytes().
  std::optional<int64_t> Take(int64_t bytes);
  // The oldest part is free again. REQUIRES: there is one.
  void Free();
  int64_t parts() const;

 private:
  const int64_t bytes_;

  mutable std::mutex mutex_;
  // Positions count on for ever; a position's place is its remainder by the ring. Guarded by
  // mutex_.
  int64_t begin_ = 0;         // where the oldest part's bytes begin, those it has left out included
  int64_t end_ = 0;           // behind the youngest
  std::deque<int64_t> ends_;  // of the parts, oldest first
};

}  // namespace penstock
