#include "worker/transport/ring_space.h"

#include "core/base/check.h"

namespace penstock {

RingSpace::RingSpace(int64_t bytes) : bytes_(bytes) {
  PENSTOCK_CHECK(bytes > 0 && bytes % kAlignment == 0);
}

std::optional<int64_t> RingSpace::Take(int64_t bytes) {
  PENSTOCK_CHECK(bytes >= 0 && bytes <= bytes_);
  std::lock_guard<std::mutex> lock(mutex_);
  if (ends_.empty()) begin_ = end_ = 0;
  int64_t first = (end_ + kAlignment - 1) / kAlignment * kAlignment;
  if (first % bytes_ + bytes > bytes_) first = (first / bytes_ + 1) * bytes_;
  if (first + bytes - begin_ > bytes_) return std::nullopt;
  end_ = first + bytes;
  ends_.push_back(end_);
  return first % bytes_;
}

void RingSpace::Free() {
  std::lock_guard<std::mutex> lock(mutex_);
  PENSTOCK_CHECK(!ends_.empty());
  begin_ = ends_.front();
  ends_.pop_front();
}

int64_t RingSpace::parts() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(ends_.size());
}

}  // namespace penstock
