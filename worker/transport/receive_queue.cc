#include "worker/transport/receive_queue.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/checked_size.h"

namespace penstock {

absl::Status TransferIsLate(uint64_t plan, absl::Duration limit) {
  return absl::DeadlineExceededError(
      absl::StrCat("no transfer ", plan, " for ", absl::FormatDuration(limit),
                   ": the stage before this one hangs, or is that much slower"));
}

absl::Status TransferIsWrong(uint64_t plan, int64_t bytes, uint64_t got_plan, int64_t got_bytes) {
  return absl::InternalError(absl::StrCat(
      "expected transfer ", plan, " of ", bytes, " bytes, got ", got_plan, " of ", got_bytes,
      ": the stage before this one has run another plan, or is of another version"));
}

absl::Status ReceiveQueue::Take(uint64_t plan, std::span<std::byte> bytes,
                                const Deadline& deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    const bool in_time =
        deadline.Wait(changed_, lock, [this] { return cancelled_ || ready() || !broken_.ok(); });
    if (cancelled_) return absl::CancelledError("the lane was cancelled");
    if (!ready() && !broken_.ok()) return broken_;
    if (!in_time) {
      return TransferIsLate(plan, deadline.limit());
    }
    if (transfers_.front().plan > plan ||
        (transfers_.front().plan == plan && transfers_.front().total_bytes != std::ssize(bytes))) {
      return TransferIsWrong(plan, std::ssize(bytes), transfers_.front().plan,
                             transfers_.front().total_bytes);
    }
    const Transfer transfer = std::move(transfers_.front());
    transfers_.pop_front();
    const std::shared_ptr<LaneSender> sender = sender_;
    lock.unlock();
    if (transfer.plan == plan) {
      std::byte* to = bytes.data();
      for (const TransferPiece& piece : transfer.pieces) {
        piece.copy(to);
        to += piece.bytes;
      }
    }
    if (sender != nullptr) sender->OnRoom();
    if (transfer.plan == plan) return absl::OkStatus();
    lock.lock();
  }
}

void ReceiveQueue::Cancel() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    cancelled_ = true;
  }
  changed_.notify_one();
}

void ReceiveQueue::Close() {
  Cancel();
  std::deque<Transfer> dropped;
  std::shared_ptr<LaneSender> sender;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    dropped.swap(transfers_);
    sender.swap(sender_);
  }
  if (sender != nullptr) sender->OnClosed();
}

void ReceiveQueue::GiveRoom() {
  std::shared_ptr<LaneSender> sender;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    sender = sender_;
  }
  if (sender != nullptr) sender->OnRoom();
}

absl::Status ReceiveQueue::broken() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return broken_;
}

void ReceiveQueue::WhenGone(std::function<void()> call) {
  std::lock_guard<std::mutex> lock(gone_mutex_);
  when_gone_ = std::move(call);
  if (when_gone_ != nullptr && !broken().ok()) when_gone_();
}

void ReceiveQueue::Attach(std::shared_ptr<LaneSender> sender) {
  std::lock_guard<std::mutex> lock(mutex_);
  PENSTOCK_CHECK(sender_ == nullptr);
  sender_ = std::move(sender);
}

absl::Status ReceiveQueue::Add(uint64_t plan, int64_t total_bytes, int64_t offset,
                               std::string piece) {
  const int64_t bytes = std::ssize(piece);
  return Add(plan, total_bytes, offset,
             TransferPiece{bytes, [piece = std::move(piece)](std::byte* to) {
                             if (!piece.empty()) std::memcpy(to, piece.data(), piece.size());
                           }});
}

absl::Status ReceiveQueue::Add(uint64_t plan, int64_t total_bytes, int64_t offset,
                               TransferPiece piece) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (cancelled_) return absl::OkStatus();
    PENSTOCK_RETURN_IF_ERROR(broken_);
    broken_ = CheckPiece(plan, total_bytes, offset, piece.bytes);
    if (broken_.ok()) {
      if (!begun()) {
        transfers_.emplace_back();
        transfers_.back().plan = plan;
        transfers_.back().total_bytes = total_bytes;
      }
      Transfer& transfer = transfers_.back();
      transfer.bytes += piece.bytes;
      transfer.pieces.push_back(std::move(piece));
      if (!transfer.whole() || transfers_.size() > 1) return absl::OkStatus();
    } else if (begun()) {
      transfers_.pop_back();  // it will never be whole
    }
  }
  changed_.notify_one();
  std::lock_guard<std::mutex> lock(mutex_);
  return broken_;
}

absl::Status ReceiveQueue::CheckPiece(uint64_t plan, int64_t total_bytes, int64_t offset,
                                      int64_t piece) const {
  const auto mistake = [&](absl::string_view what) {
    return absl::InternalError(absl::StrCat("transfer ", plan, " of ", total_bytes,
                                            " bytes, piece of ", piece, " at ", offset, ": ", what,
                                            "; the sender is of another version, or broken"));
  };
  if (begun()) {
    const Transfer& transfer = transfers_.back();
    if (transfer.plan != plan || transfer.total_bytes != total_bytes) {
      return mistake(absl::StrCat("transfer ", transfer.plan, " is not whole yet"));
    }
    if (transfer.bytes != offset) return mistake("it does not follow the piece before");
  } else {
    if (!CheckedSize(total_bytes).FitsIn(options_.max_transfer_bytes)) {
      return mistake(absl::StrCat("more than ", options_.max_transfer_bytes, " bytes"));
    }
    if (offset != 0) return mistake("it does not begin at 0");
    if (std::ssize(transfers_) >= options_.window) {
      return mistake(absl::StrCat("there is room for ", options_.window, " transfers only"));
    }
  }
  if (!(CheckedSize(offset) + CheckedSize(piece)).FitsIn(total_bytes)) {
    return mistake("it reaches beyond the end");
  }
  // Else a sender could go on for ever.
  if (piece == 0 && total_bytes > 0) return mistake("it is empty");
  return absl::OkStatus();
}

void ReceiveQueue::SenderGone(const absl::Status& why) {
  std::shared_ptr<LaneSender> sender;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    sender.swap(sender_);
    broken_.Update(why);
    if (begun()) transfers_.pop_back();
  }
  changed_.notify_one();
  std::lock_guard<std::mutex> lock(gone_mutex_);
  if (when_gone_ != nullptr) when_gone_();
}

}  // namespace penstock
