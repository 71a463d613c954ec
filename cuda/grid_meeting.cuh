// Meetings of a grid whose blocks are all there at once: each block arrives once at each of a few
// counters in device memory, and some await that all have. Counters are never set back: they count
// the launches too.
#pragma once

#include <cstdint>

namespace penstock::cuda {

inline constexpr int kMeetingStride = 16;  // counters, 128 bytes: each has its own line

// Made by threads that await or arrive, after WaitForInputs().
class GridMeeting {
 public:
  // `last` is a counter at which this thread's block has not arrived yet.
  // REQUIRES: all counters were 0 before the first launch, every launch arrives at each of them
  // once a block, and has as many blocks as the others.
  __device__ __forceinline__ GridMeeting(unsigned long long* counters, int last)
      : counters_(counters) {
    const unsigned long long arrived = Load(last);
    all_ = arrived - arrived % gridDim.x + gridDim.x;
  }
  // How many launches there were before.
  __device__ __forceinline__ unsigned long long launch() const { return all_ / gridDim.x - 1; }
  // What this thread wrote or saw before is there for those that await it.
  __device__ __forceinline__ void Arrive(int which) const {
    asm volatile("red.release.gpu.global.add.u64 [%0], 1;" ::"l"(counters_ + which * kMeetingStride)
                 : "memory");
  }
  __device__ __forceinline__ void Await(int which) const {
    while (Load(which) < all_) {
    }
  }

 private:
  __device__ __forceinline__ unsigned long long Load(int which) const {
    unsigned long long value;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];"
                 : "=l"(value)
                 : "l"(counters_ + which * kMeetingStride)
                 : "memory");
    return value;
  }

  unsigned long long* counters_;
  unsigned long long all_;  // what a counter has when all blocks of this launch have arrived
};

}  // namespace penstock::cuda
