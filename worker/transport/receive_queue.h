// ReceiveQueue: the receiving end of a lane: the transfers that have come and that nobody has asked
// for yet, in order, at most `window` of them. Bytes are kept in the pieces they came in, so that
// what is said of a transfer's size allocates nothing; or they lie in a mailbox, and a piece tells
// how to get them from there.
//
// Two sides meet in it. The receiver takes, cancels, closes; the sender (LaneSender: of the same
// process, or the call that stands for one) adds, and says when it is gone.
// Thread rule: any thread; one takes at a time. LaneSender is called without locks held.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "worker/transport/deadline.h"
#include "worker/transport/transport.h"

namespace penstock {

class ReceiveQueue;

// The sending end, as the receiving one sees it. OnClosed may overtake OnOpened.
class LaneSender {
 public:
  virtual ~LaneSender() = default;
  // The lane is open: there is room for `window` transfers.
  virtual void OnOpened(const std::shared_ptr<ReceiveQueue>& queue) = 0;
  // It will not be: another epoch, another sender, the end.
  virtual void OnRefused(const absl::Status& why) = 0;
  // A transfer has left the queue.
  virtual void OnRoom() = 0;
  // The receiving end is gone.
  virtual void OnClosed() = 0;
};

// A part of a transfer, wherever it lies.
struct TransferPiece {
  int64_t bytes = 0;
  std::function<void(std::byte* to)> copy;  // to where the receiver computes
};

// What a wait for transfer `plan` ends with where none has come, or another one.
absl::Status TransferIsLate(uint64_t plan, absl::Duration limit);
absl::Status TransferIsWrong(uint64_t plan, int64_t bytes, uint64_t got_plan, int64_t got_bytes);

class ReceiveQueue {
 public:
  explicit ReceiveQueue(const TransportOptions& options) : options_(options) {}

  int64_t window() const { return options_.window; }

  // For the receiver.
  // Waits for transfer `plan` and copies it into `bytes`; errors as of ReceiveLane::Receive, and
  // UNAVAILABLE if the sender is gone and all that came whole was taken.
  absl::Status Take(uint64_t plan, std::span<std::byte> bytes, const Deadline& deadline);
  void Cancel();
  void Close();  // cancels, drops what is here, tells the sender
  // Of transfers that do not pass through here, but by kernels (mail_lane.h): one was taken.
  void GiveRoom();
  // Why the sender is gone; OK while it is not.
  absl::Status broken() const;
  // Calls this once the sender is gone, at once if it is; null: no more, nor is it being called.
  void WhenGone(std::function<void()> call);

  // For the sender.
  void Attach(std::shared_ptr<LaneSender> sender);  // once
  // A piece of a transfer of `total_bytes`; the pieces of one follow each other. Errors: INTERNAL
  // if what is said does not fit together or is too much; the receiver gets it too.
  absl::Status Add(uint64_t plan, int64_t total_bytes, int64_t offset, TransferPiece piece);
  absl::Status Add(uint64_t plan, int64_t total_bytes, int64_t offset, std::string piece);
  void SenderGone(const absl::Status& why);

 private:
  struct Transfer {
    uint64_t plan = 0;
    int64_t total_bytes = 0;
    int64_t bytes = 0;  // that are here
    std::vector<TransferPiece> pieces;
    bool whole() const { return bytes == total_bytes; }
  };

  // REQUIRES: mutex_ held.
  absl::Status CheckPiece(uint64_t plan, int64_t total_bytes, int64_t offset, int64_t piece) const;
  bool begun() const { return !transfers_.empty() && !transfers_.back().whole(); }
  bool ready() const { return !transfers_.empty() && transfers_.front().whole(); }

  const TransportOptions options_;

  std::mutex gone_mutex_;
  std::function<void()> when_gone_;  // guarded by gone_mutex_, which is held while it runs

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  std::deque<Transfer> transfers_;  // all whole, but perhaps the last
  std::shared_ptr<LaneSender> sender_;
  absl::Status broken_;  // the sender is gone, or has made a mistake
  bool cancelled_ = false;
};

}  // namespace penstock
