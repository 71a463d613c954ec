#include "worker/transport/local_transport.h"

#include <condition_variable>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/transport/cpu_lanes.h"
#include "worker/transport/deadline.h"
#include "worker/transport/send_gate.h"

namespace penstock {
namespace {

class LocalSendEnd final : public SendEnd, public LaneSender {
 public:
  // Waits until the lane is open.
  absl::Status WaitOpened(const Deadline& deadline) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!deadline.Wait(opened_, lock, [this] { return queue_ != nullptr || !refused_.ok(); })) {
      return absl::DeadlineExceededError(
          absl::StrCat("the receiving stage has not opened its end for ",
                       absl::FormatDuration(deadline.limit()), ": it is not in this epoch yet"));
    }
    return refused_;
  }

  absl::Status Send(std::span<const std::byte> bytes, uint64_t plan,
                    const Deadline& deadline) override {
    PENSTOCK_RETURN_IF_ERROR(gate_.Pass(deadline));
    return queue_->Add(plan, std::ssize(bytes), 0,
                       std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  absl::Status status() const override { return gate_.closed(); }
  void Cancel() override { gate_.Close(absl::CancelledError("the lane was cancelled")); }
  void Close() override {
    queue_->SenderGone(absl::UnavailableError("the sending stage has closed its end"));
  }

  void OnOpened(const std::shared_ptr<ReceiveQueue>& queue) override {
    gate_.Add(queue->window());
    // Notified under the lock: who waits may destroy this next.
    std::lock_guard<std::mutex> lock(mutex_);
    queue_ = queue;
    opened_.notify_one();
  }
  void OnRefused(const absl::Status& why) override {
    std::lock_guard<std::mutex> lock(mutex_);
    refused_ = why;
    opened_.notify_one();
  }
  void OnRoom() override { gate_.Add(1); }
  void OnClosed() override {
    gate_.Close(absl::UnavailableError("the receiving stage has closed its end"));
  }

 private:
  SendGate gate_;
  std::mutex mutex_;
  std::condition_variable opened_;
  std::shared_ptr<ReceiveQueue> queue_;  // guarded by mutex_ until WaitOpened is over
  absl::Status refused_;                 // guarded by mutex_
};

class LocalTransport final : public Transport {
 public:
  LocalTransport(std::shared_ptr<LocalExchange> exchange, const TransportOptions& options)
      : options_(options),
        exchange_(std::move(exchange)),
        table_(std::make_shared<LaneTable>(options)),
        address_(exchange_->Add(table_)) {}
  ~LocalTransport() override {
    exchange_->Remove(address_);
    table_->Shutdown();
  }

  std::string address() const override { return address_; }

  std::unique_ptr<ReceiveLane> Open(LaneKind kind, uint32_t epoch) override {
    return MakeCpuReceiveLane(table_, kind, epoch);
  }

  absl::StatusOr<std::unique_ptr<SendLane>> Connect(const std::string& address, LaneKind kind,
                                                    uint32_t epoch, absl::Duration limit) override {
    const std::shared_ptr<LaneTable> peer = exchange_->Find(address);
    if (peer == nullptr) {
      return absl::UnavailableError(
          absl::StrCat("no stage at ", address, " in this process: it has ended"));
    }
    const auto end = std::make_shared<LocalSendEnd>();
    peer->Claim(kind, epoch, end);
    absl::Status status = end->WaitOpened(Deadline(limit));
    if (absl::IsDeadlineExceeded(status) && !peer->Unclaim(end)) {
      status = end->WaitOpened(Deadline(absl::InfiniteDuration()));  // the answer is on its way
    }
    if (!status.ok()) return Annotate(status, address);
    return MakeCpuSendLane(end, options_);
  }

 private:
  const TransportOptions options_;
  const std::shared_ptr<LocalExchange> exchange_;
  const std::shared_ptr<LaneTable> table_;
  const std::string address_;
};

}  // namespace

std::string LocalExchange::Add(const std::shared_ptr<LaneTable>& table) {
  std::lock_guard<std::mutex> lock(mutex_);
  const std::string address = absl::StrCat("local:", ++last_);
  tables_.emplace(address, table);
  return address;
}

void LocalExchange::Remove(const std::string& address) {
  std::lock_guard<std::mutex> lock(mutex_);
  tables_.erase(address);
}

std::shared_ptr<LaneTable> LocalExchange::Find(const std::string& address) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = tables_.find(address);
  return found == tables_.end() ? nullptr : found->second;
}

std::unique_ptr<Transport> MakeLocalTransport(std::shared_ptr<LocalExchange> exchange,
                                              const TransportOptions& options) {
  return std::make_unique<LocalTransport>(std::move(exchange), options);
}

}  // namespace penstock
