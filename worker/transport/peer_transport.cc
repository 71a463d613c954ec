#include "worker/transport/peer_transport.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "core/base/check.h"
#include "proto/worker_protocol.h"
#include "worker/transport/cpu_lanes.h"
#include "worker/transport/peer_door.h"
#include "worker/transport/peer_socket.h"
#include "worker/transport/ring_space.h"
#include "worker/transport/send_gate.h"

namespace penstock {
namespace {

// "peer:@0001f;unix:/path": the name of the door, empty where there is none, and the address of the
// other transport.
constexpr std::string_view kScheme = "peer:";

struct PeerAddress {
  std::string door;
  std::string others;
};

std::optional<PeerAddress> ParseAddress(std::string_view text) {
  const size_t cut = text.find(';');
  if (text.substr(0, kScheme.size()) != kScheme || cut == std::string_view::npos) {
    return std::nullopt;
  }
  return PeerAddress{std::string(text.substr(kScheme.size(), cut - kScheme.size())),
                     std::string(text.substr(cut + 1))};
}

// The sending end of an open lane. Its thread hears of room and of the receiver's end.
class PeerSendEnd final : public SendEnd {
 public:
  PeerSendEnd(std::string address, OwnDescriptor socket, std::unique_ptr<PeerMailbox> mailbox,
              const PeerAnswer& answer)
      : address_(std::move(address)),
        socket_(std::move(socket)),
        space_(answer.mailbox_bytes),
        mailbox_(std::move(mailbox)) {
    gate_.Add(answer.window);
    thread_ = std::thread([this] { Listen(); });
  }
  ~PeerSendEnd() override { Close(); }

  absl::Status Send(std::span<const std::byte> bytes, uint64_t plan,
                    const Deadline& deadline) override {
    PeerTransfer transfer;
    transfer.plan = plan;
    transfer.bytes = std::ssize(bytes);
    if (transfer.bytes > space_.bytes()) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "transfer ", plan, " has ", transfer.bytes, " bytes, the next stage's mailbox ",
          space_.bytes(), ": lower --max-step-tokens"));
    }
    PENSTOCK_RETURN_IF_ERROR(gate_.Pass(deadline, [&] {
      const std::optional<int64_t> offset = space_.Take(transfer.bytes);
      transfer.offset = offset.value_or(0);
      return offset.has_value();
    }));
    {
      std::lock_guard<std::mutex> lock(mailbox_mutex_);
      if (mailbox_ == nullptr) return Gone();
      mailbox_->Write(transfer.offset, bytes.data(), transfer.bytes);
    }
    return SendToPeer(socket_.get(), &transfer, sizeof(transfer)).ok() ? absl::OkStatus() : Gone();
  }

  void Cancel() override { gate_.Close(absl::CancelledError("the lane was cancelled")); }

  void Close() override {
    EndPeerSocket(socket_.get());
    if (thread_.joinable()) thread_.join();
    LetGo();
  }

 private:
  absl::Status Gone() const {
    return absl::UnavailableError(
        absl::StrCat(address_, ": the receiving stage has closed its end"));
  }

  void Listen() {
    absl::Status why;
    while (why.ok()) {
      PeerCredit credit;
      why = ReceiveFromPeer(socket_.get(), Deadline(absl::InfiniteDuration()), &credit,
                            sizeof(credit));
      if (why.ok() && (credit.transfers < 0 || credit.transfers > space_.parts())) {
        why = absl::InternalError(absl::StrCat("the receiving stage gives back ", credit.transfers,
                                               " transfers of ", space_.parts(),
                                               ": run one release everywhere"));
      }
      if (!why.ok()) break;
      for (int64_t i = 0; i < credit.transfers; ++i) space_.Free();
      gate_.Add(credit.transfers);
    }
    EndPeerSocket(socket_.get());
    // Before anybody hears of it: a mapping keeps a dead process's memory from its successor.
    LetGo();
    gate_.Close(absl::IsUnavailable(why) ? Gone() : Annotate(why, address_));
  }

  void LetGo() {
    std::lock_guard<std::mutex> lock(mailbox_mutex_);  // a copy at hand ends first
    mailbox_.reset();
  }

  const std::string address_;
  const OwnDescriptor socket_;
  SendGate gate_;
  RingSpace space_;

  std::mutex mailbox_mutex_;
  std::unique_ptr<PeerMailbox> mailbox_;  // guarded by mailbox_mutex_; null: the receiver is gone

  std::thread thread_;  // last: it uses the rest
};

class PeerTransport final : public Transport {
 public:
  PeerTransport(Transport& others, std::unique_ptr<PeerMemory> memory,
                const TransportOptions& options)
      : others_(others), options_(options), memory_(std::move(memory)) {}

  absl::Status MakeDoor(int64_t mailbox_bytes) {
    constexpr int64_t kUnit = RingSpace::kAlignment;
    PENSTOCK_ASSIGN_OR_RETURN(std::shared_ptr<Mailbox> mailbox,
                              memory_->MakeMailbox((mailbox_bytes + kUnit - 1) / kUnit * kUnit));
    PENSTOCK_ASSIGN_OR_RETURN(door_, PeerDoor::Open(lanes_, std::move(mailbox)));
    return absl::OkStatus();
  }

  std::string address() const override {
    return absl::StrCat(Abs(kScheme), door_ != nullptr ? door_->name() : "", ";",
                        others_.address());
  }

  std::unique_ptr<ReceiveLane> Open(LaneKind kind, uint32_t epoch) override {
    if (kind != LaneKind::kRows) return others_.Open(kind, epoch);
    PENSTOCK_CHECK(door_ != nullptr);
    return MakeCpuReceiveLane(lanes_, kind, epoch);
  }

  absl::StatusOr<std::unique_ptr<SendLane>> Connect(const std::string& address, LaneKind kind,
                                                    uint32_t epoch, absl::Duration limit) override {
    const std::optional<PeerAddress> parsed = ParseAddress(address);
    if (!parsed.has_value()) {
      return absl::FailedPreconditionError(
          absl::StrCat(address,
                       ": this stage does not take rows by peer memory: give all stages "
                       "one --transport"));
    }
    if (kind != LaneKind::kRows) return others_.Connect(parsed->others, kind, epoch, limit);
    absl::StatusOr<std::shared_ptr<SendEnd>> end = Dial(address, parsed->door, epoch, limit);
    if (!end.ok()) return Annotate(end.status(), address);
    return MakeCpuSendLane(*std::move(end), options_);
  }

 private:
  absl::StatusOr<std::shared_ptr<SendEnd>> Dial(const std::string& address, const std::string& door,
                                                uint32_t epoch, absl::Duration limit) {
    const Deadline deadline(limit);
    PENSTOCK_ASSIGN_OR_RETURN(OwnDescriptor socket, ConnectToPeer(door));
    const PeerHello hello{kWorkerProtocol, static_cast<uint32_t>(LaneKind::kRows), epoch};
    PENSTOCK_RETURN_IF_ERROR(SendToPeer(socket.get(), &hello, sizeof(hello)));
    PeerAnswer answer;
    OwnDescriptor descriptor;
    const absl::Status heard =
        ReceiveFromPeer(socket.get(), deadline, &answer, sizeof(answer), &descriptor);
    if (absl::IsDeadlineExceeded(heard)) {
      return absl::DeadlineExceededError(absl::StrCat("it has not opened its end for ",
                                                      absl::FormatDuration(limit),
                                                      ": it is not in this epoch yet"));
    }
    PENSTOCK_RETURN_IF_ERROR(heard);
    PENSTOCK_RETURN_IF_ERROR(RefusalOf(answer));
    if (descriptor.empty() || answer.window < 1 || answer.mailbox_bytes < 1 ||
        answer.mailbox_bytes % RingSpace::kAlignment != 0) {
      return absl::InternalError("it opens a lane without a mailbox: run one release everywhere");
    }
    PENSTOCK_ASSIGN_OR_RETURN(std::unique_ptr<PeerMailbox> mailbox,
                              memory_->Map(std::move(descriptor), answer.mailbox_bytes));
    return std::make_shared<PeerSendEnd>(address, std::move(socket), std::move(mailbox), answer);
  }

  Transport& others_;
  const TransportOptions options_;
  const std::unique_ptr<PeerMemory> memory_;
  const std::shared_ptr<LaneTable> lanes_ = std::make_shared<LaneTable>(options_);
  std::unique_ptr<PeerDoor> door_;  // null: nobody sends rows here
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakePeerTransport(Transport& others,
                                                             std::unique_ptr<PeerMemory> memory,
                                                             const PeerTransportOptions& options) {
  auto transport = std::make_unique<PeerTransport>(others, std::move(memory), options.transport);
  if (options.mailbox_bytes > 0) {
    PENSTOCK_RETURN_IF_ERROR(transport->MakeDoor(options.mailbox_bytes));
  }
  return transport;
}

}  // namespace penstock
