// LaneTable: the receiving ends of one transport, by kind, and the senders that wait for theirs to
// be opened: the place where the two ends of a lane find each other.
//
// An epoch is over once a later one was opened or asked for: who comes with it is refused. So at
// most one sender a kind waits here, however many come.
// Thread rule: any thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>

#include "core/base/status.h"
#include "worker/transport/receive_queue.h"
#include "worker/transport/transport.h"

namespace penstock {

class LaneTable {
 public:
  explicit LaneTable(const TransportOptions& options) : options_(options) {}

  // REQUIRES: none is open of this kind.
  std::shared_ptr<ReceiveQueue> Open(LaneKind kind, uint32_t epoch);
  // Of what Open gave; closes it.
  void Close(LaneKind kind);

  // Answered by OnOpened or OnRefused, from here or later: FAILED_PRECONDITION if the epoch is
  // over, ALREADY_EXISTS if the lane has a sender, UNAVAILABLE after Shutdown.
  void Claim(LaneKind kind, uint32_t epoch, const std::shared_ptr<LaneSender>& sender);
  // It waits no longer: no answer comes. False: one has come, or is about to.
  bool Unclaim(const std::shared_ptr<LaneSender>& sender);

  // Refuses who waits and who comes. Lanes that have their sender stay.
  void Shutdown();

 private:
  struct Entry {
    int64_t epoch = -1;                   // the last that was opened; -1: none
    std::shared_ptr<ReceiveQueue> queue;  // null: closed
    bool claimed = false;
    std::shared_ptr<LaneSender> waiting;  // for an epoch to come
    int64_t waiting_epoch = -1;
  };

  Entry& entry(LaneKind kind) { return entries_[static_cast<size_t>(kind)]; }

  const TransportOptions options_;
  std::mutex mutex_;
  std::array<Entry, 2> entries_;  // guarded by mutex_
  bool shut_down_ = false;        // guarded by mutex_
};

}  // namespace penstock
