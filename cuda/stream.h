// Owners of a CUDA stream and a CUDA event: made on the current device, destroyed with the object,
// moved but not copied. A moved-from object may only be destroyed or assigned to.
// Thread rule: each belongs to one thread at a time. Work of the streams' own runs on the device.
// Errors: a failed call ends the process (cuda_check.h).
#pragma once

#include <cuda_runtime_api.h>

namespace penstock {

// A point in a stream's work that other streams and the host can wait for.
class CudaEvent {
 public:
  enum class Timing { kOff, kOn };

  // Without timing, recording and waiting are cheaper.
  explicit CudaEvent(Timing timing = Timing::kOff);
  ~CudaEvent();
  CudaEvent(CudaEvent&& other) noexcept;
  CudaEvent& operator=(CudaEvent&& other) noexcept;
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  cudaEvent_t get() const { return event_; }

  // Whether everything before the last record is done (true as well when nothing was recorded).
  bool IsDone() const;
  // Blocks the calling thread until it is.
  void Synchronize() const;
  // From `start` to this event, in milliseconds. REQUIRES: both with timing, recorded and done.
  float MillisecondsSince(const CudaEvent& start) const;

 private:
  cudaEvent_t event_ = nullptr;
};

// Work in order, and independent of the default stream.
class CudaStream {
 public:
  CudaStream();
  ~CudaStream();  // work already queued still runs
  CudaStream(CudaStream&& other) noexcept;
  CudaStream& operator=(CudaStream&& other) noexcept;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  cudaStream_t get() const { return stream_; }

  // Marks the end of what is queued so far.
  void Record(const CudaEvent& event) const;
  // What is queued from now on waits for the event's last record; the caller does not.
  void Wait(const CudaEvent& event) const;
  // Blocks the calling thread until the stream is empty.
  void Synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace penstock
