#include "worker/transport/lane_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace penstock {
namespace {

absl::Status EpochIsOver(int64_t epoch, int64_t current) {
  return absl::FailedPreconditionError(absl::StrCat(
      "epoch ", epoch, " is over: the receiving stage is in epoch ", current, "; start a new one"));
}

absl::Status IsShutDown() {
  return absl::UnavailableError("the receiving stage is ending: connect to its successor");
}

}  // namespace

std::shared_ptr<ReceiveQueue> LaneTable::Open(LaneKind kind, uint32_t epoch) {
  const auto queue = std::make_shared<ReceiveQueue>(options_);
  std::shared_ptr<LaneSender> sender;
  int64_t sender_epoch = 0;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Entry& lane = entry(kind);
    PENSTOCK_CHECK(lane.queue == nullptr);
    lane.queue = queue;
    lane.epoch = epoch;
    lane.claimed = false;
    if (lane.waiting != nullptr && lane.waiting_epoch <= lane.epoch) {
      sender = std::exchange(lane.waiting, nullptr);
      sender_epoch = lane.waiting_epoch;
      lane.claimed = sender_epoch == lane.epoch;
      if (lane.claimed) queue->Attach(sender);
    }
  }
  if (sender == nullptr) return queue;
  if (sender_epoch == epoch) {
    sender->OnOpened(queue);
  } else {
    sender->OnRefused(EpochIsOver(sender_epoch, epoch));
  }
  return queue;
}

void LaneTable::Close(LaneKind kind) {
  std::shared_ptr<ReceiveQueue> queue;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    queue = std::exchange(entry(kind).queue, nullptr);
  }
  PENSTOCK_CHECK(queue != nullptr);
  queue->Close();
}

void LaneTable::Claim(LaneKind kind, uint32_t epoch, const std::shared_ptr<LaneSender>& sender) {
  std::shared_ptr<ReceiveQueue> opened;
  std::shared_ptr<LaneSender> refused = sender;
  absl::Status why;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Entry& lane = entry(kind);
    const int64_t current =
        lane.waiting != nullptr ? std::max(lane.epoch, lane.waiting_epoch) : lane.epoch;
    if (shut_down_) {
      why = IsShutDown();
    } else if (epoch < current || (epoch == lane.epoch && lane.queue == nullptr)) {
      why = EpochIsOver(epoch, current);
    } else if (epoch == lane.epoch) {
      if (lane.claimed) {
        why = absl::AlreadyExistsError(absl::StrCat("the lane of epoch ", epoch,
                                                    " has a sender: two stages were given the same "
                                                    "address, or one connects twice"));
      } else {
        lane.claimed = true;
        opened = lane.queue;
        opened->Attach(sender);
      }
    } else {
      // The newest is the one that is waited for.
      refused = std::exchange(lane.waiting, sender);
      if (refused != nullptr) why = EpochIsOver(lane.waiting_epoch, epoch);
      lane.waiting_epoch = epoch;
    }
  }
  if (opened != nullptr) {
    sender->OnOpened(opened);
  } else if (refused != nullptr) {
    refused->OnRefused(why);
  }
}

bool LaneTable::Unclaim(const std::shared_ptr<LaneSender>& sender) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (Entry& lane : entries_) {
    if (lane.waiting != sender) continue;
    lane.waiting = nullptr;
    return true;
  }
  return false;
}

void LaneTable::Shutdown() {
  std::array<std::shared_ptr<LaneSender>, 2> refused;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    shut_down_ = true;
    for (size_t i = 0; i < entries_.size(); ++i) refused[i].swap(entries_[i].waiting);
  }
  for (const auto& sender : refused) {
    if (sender != nullptr) sender->OnRefused(IsShutDown());
  }
}

}  // namespace penstock
