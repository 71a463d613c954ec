#include "worker/transport/peer_transport.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "core/base/check.h"
#include "core/tensor/device_mail.h"
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

absl::StatusOr<PeerAddress> ParseAddress(std::string_view text) {
  const size_t cut = text.find(';');
  if (text.substr(0, kScheme.size()) != kScheme || cut == std::string_view::npos) {
    return absl::FailedPreconditionError(
        absl::StrCat(Abs(text),
                     ": this stage does not take rows by peer memory: give all stages "
                     "one --transport"));
  }
  return PeerAddress{std::string(text.substr(kScheme.size(), cut - kScheme.size())),
                     std::string(text.substr(cut + 1))};
}

// The sending end of an open lane. Its thread hears of room and of the receiver's end.
class PeerSendEnd final : public SendEnd {
 public:
  // `first`: of the bytes of transfers in the mailbox.
  PeerSendEnd(std::string address, OwnDescriptor socket, std::unique_ptr<PeerMailbox> mailbox,
              const PeerAnswer& answer, int64_t first, PeerTransport::WhenGone when_gone)
      : address_(std::move(address)),
        socket_(std::move(socket)),
        when_gone_(std::move(when_gone)),
        space_(answer.mailbox_bytes - first),
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
    PENSTOCK_ASSIGN_OR_RETURN(transfer.offset, TakeRoom(transfer.bytes, deadline));
    {
      std::lock_guard<std::mutex> lock(mailbox_mutex_);
      if (mailbox_ == nullptr) return Gone();
      mailbox_->Write(transfer.offset, bytes.data(), transfer.bytes);
    }
    return SendToPeer(socket_.get(), &transfer, sizeof(transfer)).ok() ? absl::OkStatus() : Gone();
  }

  // Where a transfer of so many bytes may go, behind the first of them.
  absl::StatusOr<int64_t> TakeRoom(int64_t bytes, const Deadline& deadline) {
    if (bytes > space_.bytes()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("a transfer has ", bytes, " bytes, the next stage's mailbox ",
                       space_.bytes(), ": lower --max-step-tokens"));
    }
    std::optional<int64_t> offset;
    PENSTOCK_RETURN_IF_ERROR(gate_.Pass(deadline, [&] {
      offset = space_.Take(bytes);
      return offset.has_value();
    }));
    return *offset;
  }

  // Its address, which stays until Release; null: the receiver is gone.
  void* Hold() {
    mailbox_mutex_.lock();
    if (mailbox_ != nullptr) return mailbox_->address();
    mailbox_mutex_.unlock();
    return nullptr;
  }
  void Release() { mailbox_mutex_.unlock(); }
  absl::Status status() const override { return gate_.closed(); }

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
    why = absl::IsUnavailable(why) ? Gone() : Annotate(why, address_);
    // A mapping keeps a dead process's memory from its successor: before anybody hears of it, or
    // once kernels that store there have heard.
    if (when_gone_ == nullptr) LetGo();
    gate_.Close(why);
    if (when_gone_ == nullptr) return;
    when_gone_();
    LetGo();
  }

  void LetGo() {
    std::lock_guard<std::mutex> lock(mailbox_mutex_);  // a copy at hand ends first
    mailbox_.reset();
  }

  const std::string address_;
  const OwnDescriptor socket_;
  const PeerTransport::WhenGone when_gone_;
  SendGate gate_;
  RingSpace space_;

  std::mutex mailbox_mutex_;
  std::unique_ptr<PeerMailbox> mailbox_;  // guarded by mailbox_mutex_; null: the receiver is gone

  std::thread thread_;  // last: it uses the rest
};

class PeerMailSender final : public MailSender {
 public:
  PeerMailSender(std::shared_ptr<PeerSendEnd> end, LaneKind kind)
      : end_(std::move(end)), kind_(kind) {}
  ~PeerMailSender() override {
    end_->Cancel();
    end_->Close();
  }
  absl::StatusOr<Place> Begin(int64_t bytes, absl::Duration limit) override {
    Place place;
    if (kind_ == LaneKind::kRows) {
      PENSTOCK_ASSIGN_OR_RETURN(place.offset, end_->TakeRoom(bytes, Deadline(limit)));
    }
    place.mailbox = end_->Hold();
    if (place.mailbox == nullptr) return end_->status();
    return place;
  }
  void End() override { end_->Release(); }
  absl::Status status() const override { return end_->status(); }
  void Cancel() override { end_->Cancel(); }

 private:
  const std::shared_ptr<PeerSendEnd> end_;
  const LaneKind kind_;
};

class PeerMailReceiver final : public MailReceiver {
 public:
  PeerMailReceiver(std::shared_ptr<LaneTable> table, LaneKind kind, uint32_t epoch,
                   std::shared_ptr<Mailbox> mailbox, PeerTransport::WhenGone when_gone)
      : table_(std::move(table)),
        kind_(kind),
        mailbox_(std::move(mailbox)),
        queue_(table_->Open(kind, epoch)) {
    queue_->WhenGone(std::move(when_gone));
  }
  ~PeerMailReceiver() override {
    queue_->WhenGone(nullptr);
    table_->Close(kind_);
  }
  const void* mailbox() const override { return mailbox_->address(); }
  int64_t mailbox_bytes() const override { return mailbox_->bytes() - MailLayout::kHeaderBytes; }
  void Took() override { queue_->GiveRoom(); }
  absl::Status status() const override { return queue_->broken(); }

 private:
  const std::shared_ptr<LaneTable> table_;
  const LaneKind kind_;
  const std::shared_ptr<Mailbox> mailbox_;
  const std::shared_ptr<ReceiveQueue> queue_;
};

class PeerTransportHere final : public PeerTransport {
 public:
  PeerTransportHere(Transport& others, std::unique_ptr<PeerMemory> memory,
                    const PeerTransportOptions& options)
      : others_(others), options_(options), memory_(std::move(memory)) {}

  absl::Status MakeDoor() {
    constexpr int64_t kUnit = RingSpace::kAlignment;
    const int64_t bytes = options_.mailbox_bytes + first();
    PENSTOCK_ASSIGN_OR_RETURN(mailbox_, memory_->MakeMailbox((bytes + kUnit - 1) / kUnit * kUnit));
    PENSTOCK_ASSIGN_OR_RETURN(door_, PeerDoor::Open(lanes_, options_.kind, mailbox_));
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
    PENSTOCK_ASSIGN_OR_RETURN(const PeerAddress parsed, ParseAddress(address));
    if (kind != LaneKind::kRows) return others_.Connect(parsed.others, kind, epoch, limit);
    absl::StatusOr<std::shared_ptr<PeerSendEnd>> end =
        Dial(address, parsed.door, kind, epoch, limit, nullptr);
    if (!end.ok()) return Annotate(end.status(), address);
    return MakeCpuSendLane(*std::move(end), options_.transport);
  }

  std::unique_ptr<MailReceiver> OpenMail(uint32_t epoch, WhenGone when_gone) override {
    PENSTOCK_CHECK(door_ != nullptr);
    return std::make_unique<PeerMailReceiver>(lanes_, options_.kind, epoch, mailbox_,
                                              std::move(when_gone));
  }

  absl::StatusOr<std::unique_ptr<MailSender>> ConnectMail(const std::string& address, LaneKind kind,
                                                          uint32_t epoch, absl::Duration limit,
                                                          WhenGone when_gone) override {
    PENSTOCK_ASSIGN_OR_RETURN(const PeerAddress parsed, ParseAddress(address));
    absl::StatusOr<std::shared_ptr<PeerSendEnd>> end =
        Dial(address, parsed.door, kind, epoch, limit, std::move(when_gone));
    if (!end.ok()) return Annotate(end.status(), address);
    return std::make_unique<PeerMailSender>(*std::move(end), kind);
  }

 private:
  // Of the bytes of transfers in a mailbox.
  int64_t first() const { return options_.by_device ? MailLayout::kHeaderBytes : 0; }

  absl::StatusOr<std::shared_ptr<PeerSendEnd>> Dial(const std::string& address,
                                                    const std::string& door, LaneKind kind,
                                                    uint32_t epoch, absl::Duration limit,
                                                    WhenGone when_gone) {
    const Deadline deadline(limit);
    PENSTOCK_ASSIGN_OR_RETURN(OwnDescriptor socket, ConnectToPeer(door));
    const PeerHello hello{kWorkerProtocol, static_cast<uint32_t>(kind), epoch};
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
    if (descriptor.empty() || answer.window < 1 || answer.mailbox_bytes <= first() ||
        answer.mailbox_bytes % RingSpace::kAlignment != 0) {
      return absl::InternalError("it opens a lane without a mailbox: run one release everywhere");
    }
    PENSTOCK_ASSIGN_OR_RETURN(std::unique_ptr<PeerMailbox> mailbox,
                              memory_->Map(std::move(descriptor), answer.mailbox_bytes));
    return std::make_shared<PeerSendEnd>(address, std::move(socket), std::move(mailbox), answer,
                                         first(), std::move(when_gone));
  }

  Transport& others_;
  const PeerTransportOptions options_;
  const std::unique_ptr<PeerMemory> memory_;
  const std::shared_ptr<LaneTable> lanes_ = std::make_shared<LaneTable>(options_.transport);
  std::shared_ptr<Mailbox> mailbox_;
  std::unique_ptr<PeerDoor> door_;  // null: nobody sends here
};

}  // namespace

absl::StatusOr<std::unique_ptr<PeerTransport>> MakePeerTransport(
    Transport& others, std::unique_ptr<PeerMemory> memory, const PeerTransportOptions& options) {
  auto transport = std::make_unique<PeerTransportHere>(others, std::move(memory), options);
  if (options.mailbox_bytes > 0) PENSTOCK_RETURN_IF_ERROR(transport->MakeDoor());
  return transport;
}

}  // namespace penstock
