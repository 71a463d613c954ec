// StageInbox: where the events of stage connections wait for the engine thread. Each belongs to one
// connection, told by its serial number, so that what an earlier one left behind can be dropped.
// Thread rule: any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "frontend/stage_connection.h"
#include "frontend/wakeup.h"

namespace penstock {

class StageInbox {
 public:
  struct Event {
    int32_t stage = 0;
    uint64_t serial = 0;  // of the connection
    StageEvent event;
  };

  // `wakeup` is notified of every event.
  explicit StageInbox(std::shared_ptr<Wakeup> wakeup) : wakeup_(std::move(wakeup)) {}

  void Add(Event event) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      events_.push_back(std::move(event));
    }
    wakeup_->Notify();
  }
  std::vector<Event> Take() {
    std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(events_, {});
  }

 private:
  const std::shared_ptr<Wakeup> wakeup_;
  std::mutex mutex_;
  std::vector<Event> events_;  // guarded by mutex_
};

}  // namespace penstock
