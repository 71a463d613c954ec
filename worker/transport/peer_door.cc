#include "worker/transport/peer_door.h"

#include <poll.h>

#include <mutex>
#include <utility>

#include "absl/time/clock.h"
#include "core/base/log.h"
#include "proto/worker_protocol.h"

namespace penstock {
namespace {

// How long a sender that has connected may take to say what it wants.
constexpr absl::Duration kHelloLimit = absl::Seconds(10);

}  // namespace

// A sender that has connected. Its thread reads; the others are called by whoever has the lane.
class PeerDoor::Guest final : public LaneSender, public std::enable_shared_from_this<Guest> {
 public:
  Guest(OwnDescriptor socket, std::shared_ptr<LaneTable> lanes, LaneKind kind,
        std::shared_ptr<Mailbox> mailbox)
      : socket_(std::move(socket)),
        lanes_(std::move(lanes)),
        kind_(kind),
        mailbox_(std::move(mailbox)) {}

  void Begin() {
    thread_ = std::thread([this] {
      End(Serve());
      left_ = true;
    });
  }
  // Whether Join returns at once.
  bool left() const { return left_; }
  void Join() { thread_.join(); }

  void OnOpened(const std::shared_ptr<ReceiveQueue>& queue) override {
    absl::Status why;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      why = ended_;
      if (why.ok()) queue_ = queue;
    }
    if (why.ok()) why = Invite(queue->window());
    if (why.ok()) return;
    End(why);
    queue->SenderGone(why);
  }
  void OnRefused(const absl::Status& why) override {
    const PeerAnswer answer = Refusal(why);
    static_cast<void>(SendToPeer(socket_.get(), &answer, sizeof(answer)));  // it may have left
    End(why);
  }
  void OnRoom() override {
    const PeerCredit credit{1};
    if (absl::Status sent = SendToPeer(socket_.get(), &credit, sizeof(credit)); !sent.ok()) {
      EndPeerSocket(socket_.get());  // the thread sees that, and says so once
    }
  }
  void OnClosed() override {
    End(absl::UnavailableError("the receiving stage has closed its end"));
  }

  // For the first reason that comes: both sides are told, the thread ends.
  void End(const absl::Status& why) {
    std::shared_ptr<ReceiveQueue> queue;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!ended_.ok()) return;
      ended_ = why;
      queue = std::move(queue_);
    }
    EndPeerSocket(socket_.get());
    lanes_->Unclaim(shared_from_this());
    if (queue != nullptr) queue->SenderGone(why);
  }

 private:
  // Until something is wrong; never OK.
  absl::Status Serve() {
    PeerHello hello;
    absl::Status status =
        ReceiveFromPeer(socket_.get(), Deadline(kHelloLimit), &hello, sizeof(hello));
    if (status.ok()) status = Check(hello);
    if (!status.ok()) {
      OnRefused(status);
      return status;
    }
    lanes_->Claim(static_cast<LaneKind>(hello.kind), hello.epoch, shared_from_this());
    while (true) {
      PeerTransfer transfer;
      status = ReceiveFromPeer(socket_.get(), Deadline(absl::InfiniteDuration()), &transfer,
                               sizeof(transfer));
      if (status.ok()) status = Take(transfer);
      if (absl::IsUnavailable(status)) return Annotate(status, "the sending stage");
      if (!status.ok()) return status;
    }
  }

  absl::Status Check(const PeerHello& hello) const {
    if (hello.protocol != kWorkerProtocol) {
      return absl::FailedPreconditionError(
          absl::StrCat("the sending stage speaks protocol ", hello.protocol, ", the receiving one ",
                       kWorkerProtocol, ": run one release everywhere"));
    }
    if (hello.kind != static_cast<uint32_t>(kind_)) {
      return absl::InvalidArgumentError(
          absl::StrCat("no lane of kind ", hello.kind, " goes through this stage's mailbox"));
    }
    return absl::OkStatus();
  }

  // Hands the mailbox over.
  absl::Status Invite(int64_t window) {
    absl::StatusOr<OwnDescriptor> descriptor = mailbox_->Export();
    PeerAnswer answer;
    if (descriptor.ok()) {
      answer.window = window;
      answer.mailbox_bytes = mailbox_->bytes();
    } else {
      answer = Refusal(descriptor.status());
    }
    const absl::Status sent = SendToPeer(socket_.get(), &answer, sizeof(answer),
                                         descriptor.ok() ? descriptor->get() : -1);
    return descriptor.ok() ? Annotate(sent, "the sending stage") : descriptor.status();
  }

  absl::Status Take(const PeerTransfer& transfer) {
    std::shared_ptr<ReceiveQueue> queue;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!ended_.ok()) return ended_;
      queue = queue_;
    }
    if (queue == nullptr) {
      return absl::InternalError("a transfer came before the lane was open: the sender is broken");
    }
    if (transfer.offset < 0 || transfer.bytes < 0 || transfer.bytes > mailbox_->bytes() ||
        transfer.offset > mailbox_->bytes() - transfer.bytes) {
      return absl::InternalError(absl::StrCat(
          "transfer ", transfer.plan, " of ", transfer.bytes, " bytes at ", transfer.offset,
          " is not in the mailbox of ", mailbox_->bytes(), ": the sender is broken"));
    }
    return queue->Add(transfer.plan, transfer.bytes, 0,
                      TransferPiece{transfer.bytes, [mailbox = mailbox_, transfer](std::byte* to) {
                                      mailbox->Read(transfer.offset, transfer.bytes, to);
                                    }});
  }

  const OwnDescriptor socket_;
  const std::shared_ptr<LaneTable> lanes_;
  const LaneKind kind_;
  const std::shared_ptr<Mailbox> mailbox_;
  std::atomic<bool> left_ = false;

  std::mutex mutex_;
  std::shared_ptr<ReceiveQueue> queue_;  // guarded by mutex_
  absl::Status ended_;                   // guarded by mutex_

  std::thread thread_;  // last: it uses the rest
};

absl::StatusOr<std::unique_ptr<PeerDoor>> PeerDoor::Open(std::shared_ptr<LaneTable> lanes,
                                                         LaneKind kind,
                                                         std::shared_ptr<Mailbox> mailbox) {
  PENSTOCK_ASSIGN_OR_RETURN(PeerListener listener, ListenForPeers());
  return std::unique_ptr<PeerDoor>(
      new PeerDoor(std::move(listener), std::move(lanes), kind, std::move(mailbox)));
}

PeerDoor::PeerDoor(PeerListener listener, std::shared_ptr<LaneTable> lanes, LaneKind kind,
                   std::shared_ptr<Mailbox> mailbox)
    : listener_(std::move(listener)),
      lanes_(std::move(lanes)),
      kind_(kind),
      mailbox_(std::move(mailbox)),
      thread_([this] { Run(); }) {}

PeerDoor::~PeerDoor() {
  closing_ = true;
  EndPeerSocket(listener_.socket.get());  // wakes who waits for connections
  thread_.join();
  lanes_->Shutdown();
  for (const auto& guest : guests_) {
    guest->End(absl::UnavailableError("the receiving stage has ended"));
    guest->Join();
  }
}

void PeerDoor::Run() {
  while (!closing_) {
    pollfd wait = {listener_.socket.get(), POLLIN, 0};
    if (poll(&wait, 1, -1) <= 0) continue;
    absl::StatusOr<OwnDescriptor> connection = AcceptPeer(listener_.socket.get());
    if (closing_) return;
    ForgetThoseThatLeft();
    if (connection.ok()) {
      guests_.push_back(std::make_shared<Guest>(*std::move(connection), lanes_, kind_, mailbox_));
      guests_.back()->Begin();
    } else if (absl::IsPermissionDenied(connection.status())) {
      LogWarning(absl::StrCat("refused a sender of rows: ", Message(connection.status())));
    } else {
      absl::SleepFor(absl::Milliseconds(50));  // without descriptors it waits in the queue
    }
  }
}

void PeerDoor::ForgetThoseThatLeft() {
  for (auto guest = guests_.begin(); guest != guests_.end();) {
    if (!(*guest)->left()) {
      ++guest;
      continue;
    }
    (*guest)->Join();
    guest = guests_.erase(guest);
  }
}

}  // namespace penstock
