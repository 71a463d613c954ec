#include "cuda/stream.h"

#include <utility>

#include "cuda/cuda_check.h"

namespace penstock {
namespace {

// At the end of the process the runtime may be gone before the object: its streams and events are
// gone with it.
void CheckDestroyed(cudaError_t error) {
  if (error != cudaErrorCudartUnloading) CUDA_CHECK(error);
}

}  // namespace

CudaEvent::CudaEvent(Timing timing) {
  const unsigned flags = timing == Timing::kOn ? cudaEventDefault : cudaEventDisableTiming;
  CUDA_CHECK(cudaEventCreateWithFlags(&event_, flags));
}

CudaEvent::~CudaEvent() {
  if (event_ != nullptr) CheckDestroyed(cudaEventDestroy(event_));
}

CudaEvent::CudaEvent(CudaEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}

CudaEvent& CudaEvent::operator=(CudaEvent&& other) noexcept {
  std::swap(event_, other.event_);
  return *this;
}

bool CudaEvent::IsDone() const {
  const cudaError_t state = cudaEventQuery(event_);
  if (state == cudaErrorNotReady) return false;
  CUDA_CHECK(state);
  return true;
}

void CudaEvent::Synchronize() const { CUDA_CHECK(cudaEventSynchronize(event_)); }

float CudaEvent::MillisecondsSince(const CudaEvent& start) const {
  float milliseconds = 0.0F;
  CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start.event_, event_));
  return milliseconds;
}

CudaStream::CudaStream() { CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }

CudaStream::~CudaStream() {
  if (stream_ != nullptr) CheckDestroyed(cudaStreamDestroy(stream_));
}

CudaStream::CudaStream(CudaStream&& other) noexcept
    : stream_(std::exchange(other.stream_, nullptr)) {}

CudaStream& CudaStream::operator=(CudaStream&& other) noexcept {
  std::swap(stream_, other.stream_);
  return *this;
}

void CudaStream::Record(const CudaEvent& event) const {
  CUDA_CHECK(cudaEventRecord(event.get(), stream_));
}

void CudaStream::Wait(const CudaEvent& event) const {
  CUDA_CHECK(cudaStreamWaitEvent(stream_, event.get(), 0));
}

void CudaStream::Synchronize() const { CUDA_CHECK(cudaStreamSynchronize(stream_)); }

}  // namespace penstock
