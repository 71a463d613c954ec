// Rows by peer memory: the suite over the host's memory, which needs no GPU, and over a GPU's where
// there is one; and what only this transport does.
#include "worker/transport/peer_transport.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/peer_endpoint.h"
#include "tests/worker/transport/transport_suite.h"
#include "worker/transport/peer_socket.h"
#ifdef PENSTOCK_CUDA
#include "tests/support/gpu.h"
#endif

namespace penstock::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(Peer, TransportTest, ::testing::Values(PeerKind("Host", "cpu")), KindName);
INSTANTIATE_TEST_SUITE_P(Peer, FaultTest, ::testing::Values(PeerKind("Host", "cpu")), KindName);

#ifdef PENSTOCK_CUDA
// The tensors are the host's here, the mailboxes a GPU's: two stages of one process on one GPU.
TransportKind GpuKind() {
  TransportKind kind = PeerKind("Gpu", "cuda:0");
  kind.available = &GpuCall::Available;
  return kind;
}
INSTANTIATE_TEST_SUITE_P(PeerGpu, TransportTest, ::testing::Values(GpuKind()), KindName);
INSTANTIATE_TEST_SUITE_P(PeerGpu, FaultTest, ::testing::Values(GpuKind()), KindName);
#endif

constexpr int64_t kSmallMailbox = 8 * 1024;
const Shape kRows{4, 256};  // 4 KiB: two of them fill the small mailbox

class PeerTransportTest : public ::testing::Test {
 protected:
  std::unique_ptr<PeerEndpoint> Endpoint(int64_t mailbox_bytes = kSmallMailbox) {
    return std::make_unique<PeerEndpoint>(exchange_, "cpu", mailbox_bytes, TransportOptions{});
  }
  void Start(int64_t own_mailbox = kSmallMailbox) {
    a_ = Endpoint(own_mailbox);
    b_ = Endpoint();
    receiver_.lane = b_->transport().Open(LaneKind::kRows, 1);
    auto connected =
        a_->transport().Connect(b_->transport().address(), LaneKind::kRows, 1, kPatience);
    ASSERT_TRUE(IsOk(connected));
    sender_.lane = *std::move(connected);
  }
  // The name of the door in "peer:@0001f;local:3".
  static std::string Door(const std::string& address) {
    return address.substr(5, address.find(';') - 5);
  }
  // A sender by hand.
  OwnDescriptor Dial(const PeerHello& hello) {
    auto socket = ConnectToPeer(Door(b_->transport().address()));
    EXPECT_TRUE(IsOk(socket));
    EXPECT_TRUE(IsOk(SendToPeer(socket->get(), &hello, sizeof(hello))));
    return *std::move(socket);
  }
  static absl::Status Answer(const OwnDescriptor& socket, OwnDescriptor* mailbox) {
    PeerAnswer answer;
    PENSTOCK_RETURN_IF_ERROR(
        ReceiveFromPeer(socket.get(), Deadline(kPatience), &answer, sizeof(answer), mailbox));
    return RefusalOf(answer);
  }

  const std::shared_ptr<LocalExchange> exchange_ = std::make_shared<LocalExchange>();
  std::unique_ptr<PeerEndpoint> a_, b_;
  Sender sender_;
  Receiver receiver_;
};

TEST_F(PeerTransportTest, ASenderWaitsForRoomInTheMailbox) {
  Start();
  for (uint64_t plan = 1; plan <= 5; ++plan) sender_.Send(Pattern(kRows, plan), plan);
  for (uint64_t plan = 1; plan <= 5; ++plan) {
    const auto sent = static_cast<int64_t>(std::min<uint64_t>(plan + 1, 5));
    WaitUntil([&] { return sender_.sent >= sent; });
    absl::SleepFor(absl::Milliseconds(5));
    EXPECT_EQ(sender_.sent, sent);
    ASSERT_TRUE(IsOk(receiver_.ReceivePattern(kRows, plan)));
  }
  sender_.Send(Pattern(kRows, 6), 6);
  sender_.Send(Pattern(kRows, 7), 7);
  sender_.Send(Pattern(kRows, 8), 8, kSoon);
  sender_.stream.Fence();
  EXPECT_TRUE(
      Fails(sender_.stream.status(), absl::StatusCode::kDeadlineExceeded, {"no room for 50ms"}));
}

// Sizes that leave gaps, over and over the ring's end.
TEST_F(PeerTransportTest, NoByteIsOverwrittenBeforeItIsTaken) {
  Start();
  constexpr uint64_t kPlans = 500;
  const auto shape = [](uint64_t plan) {
    return Shape{static_cast<int64_t>(1 + plan * plan % 37), static_cast<int64_t>(1 + plan % 53)};
  };
  std::thread takes([&] {
    for (uint64_t plan = 1; plan <= kPlans; ++plan) {
      ASSERT_TRUE(IsOk(receiver_.ReceivePattern(shape(plan), plan))) << plan;
    }
  });
  for (uint64_t plan = 1; plan <= kPlans; ++plan) sender_.Send(Pattern(shape(plan), plan), plan);
  takes.join();
  sender_.stream.Fence();
  EXPECT_TRUE(IsOk(sender_.stream.status()));
}

TEST_F(PeerTransportTest, RefusesMoreThanTheMailboxHolds) {
  Start();
  sender_.Send(Pattern({9, 256}, 1), 1);
  sender_.stream.Fence();
  EXPECT_TRUE(Fails(sender_.stream.status(), absl::StatusCode::kResourceExhausted,
                    {"9216 bytes", "8192", "--max-step-tokens"}));
}

TEST_F(PeerTransportTest, TokensGoByTheOtherTransport) {
  Start();
  Sender sender;
  Receiver receiver;
  receiver.lane = a_->transport().Open(LaneKind::kTokens, 1);
  auto connected =
      b_->transport().Connect(a_->transport().address(), LaneKind::kTokens, 1, kPatience);
  ASSERT_TRUE(IsOk(connected));
  sender.lane = *std::move(connected);
  // More than any mailbox would hold.
  sender.Send(Pattern({100, 256}, 1), 1);
  EXPECT_TRUE(IsOk(receiver.ReceivePattern({100, 256}, 1)));
}

TEST_F(PeerTransportTest, AStageWithoutAMailboxSendsAndIsNotReached) {
  ASSERT_NO_FATAL_FAILURE(Start(/*own_mailbox=*/0));
  sender_.Send(Pattern(kRows, 1), 1);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(kRows, 1)));
  EXPECT_TRUE(
      Fails(b_->transport().Connect(a_->transport().address(), LaneKind::kRows, 1, kPatience),
            absl::StatusCode::kUnavailable, {a_->transport().address(), "--transport grpc"}));
}

TEST_F(PeerTransportTest, RefusesAStageThatTakesNoRowsSo) {
  a_ = Endpoint();
  const auto plain = MakeLocalTransport(exchange_);
  const auto lane = plain->Open(LaneKind::kRows, 1);
  EXPECT_TRUE(Fails(a_->transport().Connect(plain->address(), LaneKind::kRows, 1, kPatience),
                    absl::StatusCode::kFailedPrecondition, {"--transport"}));
}

TEST_F(PeerTransportTest, RefusesAnotherProtocolAndAnotherKind) {
  a_ = Endpoint();
  b_ = Endpoint();
  receiver_.lane = b_->transport().Open(LaneKind::kRows, 1);
  OwnDescriptor mailbox;
  EXPECT_TRUE(Fails(Answer(Dial({77, 0, 1}), &mailbox), absl::StatusCode::kFailedPrecondition,
                    {"protocol 77"}));
  EXPECT_TRUE(
      Fails(Answer(Dial({1, 1, 1}), &mailbox), absl::StatusCode::kInvalidArgument, {"kind 1"}));
  EXPECT_TRUE(mailbox.empty());
}

// What no sender of ours says.
TEST_F(PeerTransportTest, ATransferOutsideTheMailboxEndsTheLane) {
  for (const PeerTransfer& transfer :
       {PeerTransfer{1, kSmallMailbox - 8, 16}, PeerTransfer{1, -256, 16}, PeerTransfer{1, 0, -1},
        PeerTransfer{1, 16, INT64_MAX}, PeerTransfer{1, 0, kSmallMailbox + 1}}) {
    SCOPED_TRACE(absl::StrCat(transfer.offset, " ", transfer.bytes));
    b_ = Endpoint();
    receiver_.lane = b_->transport().Open(LaneKind::kRows, 1);
    const OwnDescriptor socket = Dial({1, 0, 1});
    OwnDescriptor mailbox;
    ASSERT_TRUE(IsOk(Answer(socket, &mailbox)));
    ASSERT_FALSE(mailbox.empty());
    ASSERT_TRUE(IsOk(SendToPeer(socket.get(), &transfer, sizeof(transfer))));
    EXPECT_TRUE(Fails(receiver_.ReceivePattern(kRows, 1), absl::StatusCode::kInternal,
                      {"not in the mailbox"}));
    receiver_.stream.Reset();
    receiver_.lane.reset();
  }
}

TEST_F(PeerTransportTest, ATransferBeforeTheLaneIsOpenEndsIt) {
  b_ = Endpoint();
  const OwnDescriptor socket = Dial({1, 0, 1});
  const PeerTransfer transfer{1, 0, 16};
  ASSERT_TRUE(IsOk(SendToPeer(socket.get(), &transfer, sizeof(transfer))));
  OwnDescriptor mailbox;
  EXPECT_TRUE(Fails(Answer(socket, &mailbox), absl::StatusCode::kUnavailable, {}));
  EXPECT_TRUE(mailbox.empty());
}

TEST_F(PeerTransportTest, AMessageOfAnotherSizeEndsTheLane) {
  b_ = Endpoint();
  receiver_.lane = b_->transport().Open(LaneKind::kRows, 1);
  const OwnDescriptor socket = Dial({1, 0, 1});
  OwnDescriptor mailbox;
  ASSERT_TRUE(IsOk(Answer(socket, &mailbox)));
  ASSERT_TRUE(IsOk(SendToPeer(socket.get(), "abc", 3)));
  EXPECT_TRUE(
      Fails(receiver_.ReceivePattern(kRows, 1), absl::StatusCode::kInternal, {"one release"}));
}

// One that gives back what was not sent would have the sender write over what is still to be read.
TEST_F(PeerTransportTest, CreditsForNothingEndTheLane) {
  auto listener = ListenForPeers();
  ASSERT_TRUE(IsOk(listener));
  auto memory = MakePeerMemory(StageOptions());
  ASSERT_TRUE(IsOk(memory));
  auto mailbox = (*memory)->MakeMailbox(kSmallMailbox);
  ASSERT_TRUE(IsOk(mailbox));
  a_ = Endpoint();
  auto connected = std::async(std::launch::async, [&] {
    return a_->transport().Connect(absl::StrCat("peer:", listener->name, ";local:9"),
                                   LaneKind::kRows, 1, kPatience);
  });
  absl::StatusOr<OwnDescriptor> socket = absl::UnavailableError("");
  WaitUntil([&] {
    if (!socket.ok()) socket = AcceptPeer(listener->socket.get());
    return socket.ok();
  });
  ASSERT_TRUE(IsOk(socket));
  PeerHello hello;
  ASSERT_TRUE(IsOk(ReceiveFromPeer(socket->get(), Deadline(kPatience), &hello, sizeof(hello))));
  EXPECT_EQ(hello.epoch, 1u);
  PeerAnswer answer;
  answer.window = 4;
  answer.mailbox_bytes = kSmallMailbox;
  auto exported = (*mailbox)->Export();
  ASSERT_TRUE(IsOk(exported));
  ASSERT_TRUE(IsOk(SendToPeer(socket->get(), &answer, sizeof(answer), exported->get())));
  auto lane = connected.get();
  ASSERT_TRUE(IsOk(lane));
  sender_.lane = *std::move(lane);
  sender_.Send(Pattern(kRows, 1), 1);
  sender_.stream.Fence();
  ASSERT_TRUE(IsOk(sender_.stream.status()));
  const PeerCredit credit{2};
  ASSERT_TRUE(IsOk(SendToPeer(socket->get(), &credit, sizeof(credit))));
  PeerTransfer transfer;
  ASSERT_TRUE(
      IsOk(ReceiveFromPeer(socket->get(), Deadline(kPatience), &transfer, sizeof(transfer))));
  EXPECT_EQ(transfer.bytes, 4096);
  EXPECT_TRUE(
      Fails(ReceiveFromPeer(socket->get(), Deadline(kPatience), &transfer, sizeof(transfer)),
            absl::StatusCode::kUnavailable, {}));
  // The socket ends before the gate is closed; only a wait is sure to see it.
  for (uint64_t plan = 2; sender_.stream.status().ok(); ++plan) {
    ASSERT_LT(plan, 8u);
    sender_.Send(Pattern(kRows, plan), plan);
    sender_.stream.Fence();
  }
}

TEST_F(PeerTransportTest, AMailboxThatIsSmallerThanSaidIsNotMapped) {
  auto memory = MakePeerMemory(StageOptions());
  ASSERT_TRUE(IsOk(memory));
  auto mailbox = (*memory)->MakeMailbox(kSmallMailbox);
  ASSERT_TRUE(IsOk(mailbox));
  auto exported = (*mailbox)->Export();
  ASSERT_TRUE(IsOk(exported));
  EXPECT_TRUE(Fails((*memory)->Map(*std::move(exported), kSmallMailbox + 1),
                    absl::StatusCode::kFailedPrecondition, {"no mailbox"}));
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_TRUE(Fails((*memory)->Map(OwnDescriptor(ends[0]), 4096),
                    absl::StatusCode::kFailedPrecondition, {"no mailbox"}));
  close(ends[1]);
}

TEST_F(PeerTransportTest, RefusesAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be another user";
  b_ = Endpoint();
  const std::string door = Door(b_->transport().address());
  const pid_t stranger = fork();
  if (stranger == 0) {
    if (setuid(65534) != 0) _exit('s');
    auto socket = ConnectToPeer(door);
    // Root may listen for anybody; it is the listener that refuses.
    if (!socket.ok()) _exit('c');
    const PeerHello hello{1, 0, 1};
    static_cast<void>(SendToPeer(socket->get(), &hello, sizeof(hello)));
    PeerAnswer answer;
    _exit(absl::IsUnavailable(
              ReceiveFromPeer(socket->get(), Deadline(kPatience), &answer, sizeof(answer)))
              ? '0'
              : '?');
  }
  int status = 0;
  ASSERT_EQ(waitpid(stranger, &status, 0), stranger);
  EXPECT_EQ(WEXITSTATUS(status), '0');
}

}  // namespace
}  // namespace penstock::testing
