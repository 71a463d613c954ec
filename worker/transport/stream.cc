#include "worker/transport/stream.h"

#include <future>

namespace penstock {

absl::Status CpuStream::status() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return status_;
}

void CpuStream::Fail(const absl::Status& reason) {
  std::lock_guard<std::mutex> lock(mutex_);
  status_.Update(reason);
}

void CpuStream::Fence() {
  std::promise<void> reached;
  Enqueue([&reached] { reached.set_value(); });
  reached.get_future().wait();
}

void CpuStream::Reset() {
  std::lock_guard<std::mutex> lock(mutex_);
  status_ = absl::OkStatus();
}

}  // namespace penstock
