#include "worker/transport/send_gate.h"

#include "absl/strings/str_cat.h"

namespace penstock {

absl::Status SendGate::Pass(const Deadline& deadline, const std::function<bool()>& take) {
  std::unique_lock<std::mutex> lock(mutex_);
  // Its last call decides: where that says true nobody asks again.
  const bool in_time =
      deadline.Wait(changed_, lock, [&] { return !closed_.ok() || (room_ > 0 && take()); });
  if (!closed_.ok()) return closed_;
  if (!in_time) {
    return absl::DeadlineExceededError(absl::StrCat("the receiving stage has made no room for ",
                                                    absl::FormatDuration(deadline.limit()),
                                                    ": it hangs, or is that much slower"));
  }
  --room_;
  return absl::OkStatus();
}

void SendGate::Add(int64_t transfers) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    room_ += transfers;
  }
  changed_.notify_one();
}

void SendGate::Close(const absl::Status& reason) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_.Update(reason);
  }
  changed_.notify_one();
}

}  // namespace penstock
