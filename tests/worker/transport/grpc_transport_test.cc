#include "worker/transport/grpc_transport.h"

#include <gtest/gtest.h>

#include "tests/support/grpc_endpoint.h"
#include "tests/support/transfer_peer.h"
#include "tests/worker/transport/transport_suite.h"

namespace penstock::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(Grpc, TransportTest,
                         ::testing::Values(UnixKind(), TcpKind(), SmallChunksKind()), KindName);
INSTANTIATE_TEST_SUITE_P(Grpc, FaultTest,
                         ::testing::Values(UnixKind(), TcpKind(), SmallChunksKind()), KindName);

// The answer may be late on a busy machine.
const GrpcTransportOptions kPings{.ping_period = absl::Milliseconds(500),
                                  .ping_timeout = absl::Seconds(5)};

// Against another process, over a unix socket or the loopback interface.
class GrpcPeerTest : public ::testing::TestWithParam<bool> {
 protected:
  static std::string OwnAddress() { return GetParam() ? kAnyPort : UnixAddress(); }

  void StartSendingPeer(GrpcTransportOptions options = {}) {
    options.transport.window = 4;
    endpoint_ = std::make_unique<GrpcEndpoint>(OwnAddress(), options);
    receiver_.lane = endpoint_->transport().Open(LaneKind::kRows, 1);
    peer_ = std::make_unique<TransferPeer>("send", endpoint_->transport().address());
    ASSERT_TRUE(peer_->WaitReady());
    for (uint64_t plan = 1; plan <= 20; ++plan) {
      ASSERT_TRUE(IsOk(receiver_.ReceivePattern(kPeerShape, plan)));
    }
  }
  // Takes what has come whole, and what comes, until something is wrong.
  absl::Status ReceiveOn(absl::Duration limit) {
    uint64_t plan = 21;
    absl::Status status;
    while (status.ok()) status = receiver_.ReceivePattern(kPeerShape, plan++, limit);
    return status;
  }

  std::unique_ptr<GrpcEndpoint> endpoint_;
  std::unique_ptr<TransferPeer> peer_;
  Receiver receiver_;
};

TEST_P(GrpcPeerTest, AKilledSenderIsSeenAtOnce) {
  StartSendingPeer();
  peer_->Signal(SIGKILL);
  EXPECT_TRUE(Fails(ReceiveOn(absl::InfiniteDuration()), absl::StatusCode::kUnavailable,
                    {"sending stage"}));
}

TEST_P(GrpcPeerTest, AStoppedSenderRunsIntoTheDeadline) {
  StartSendingPeer();
  peer_->Stop();
  EXPECT_TRUE(Fails(ReceiveOn(absl::Seconds(1)), absl::StatusCode::kDeadlineExceeded, {"hangs"}));
  // Once it goes on, so does the lane.
  peer_->Signal(SIGCONT);
  receiver_.stream.Reset();
  const Tensor tensor = Poisoned(kPeerShape);
  receiver_.Receive(tensor, 40);
  receiver_.stream.Fence();
  EXPECT_TRUE(IsOk(receiver_.stream.status()));
  EXPECT_TRUE(HoldsPattern(tensor, 40));
}

// What a vanished host looks like: its sockets are open, and nothing answers.
TEST_P(GrpcPeerTest, PingsFindASenderThatIsGoneWithoutAWord) {
  StartSendingPeer(kPings);
  peer_->Stop();
  EXPECT_TRUE(Fails(ReceiveOn(absl::InfiniteDuration()), absl::StatusCode::kUnavailable,
                    {"sending stage"}));
}

INSTANTIATE_TEST_SUITE_P(Grpc, GrpcPeerTest, ::testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Tcp" : "Unix"; });

class GrpcSenderTest : public ::testing::Test {
 protected:
  void StartReceivingPeer(const GrpcTransportOptions& options = {}) {
    endpoint_ = std::make_unique<GrpcEndpoint>(UnixAddress(), options);
    const std::string address = UnixAddress();
    peer_ = std::make_unique<TransferPeer>("receive", address);
    ASSERT_TRUE(peer_->WaitReady());
    auto connected = endpoint_->transport().Connect(address, LaneKind::kRows, 1, kPatience);
    ASSERT_TRUE(IsOk(connected));
    sender_.lane = *std::move(connected);
    for (uint64_t plan = 1; plan <= 20; ++plan) sender_.Send(Pattern(kPeerShape, plan), plan);
    sender_.stream.Fence();
    ASSERT_TRUE(IsOk(sender_.stream.status()));
    ASSERT_TRUE(peer_->WaitReceived(20));  // nothing is left in the socket
  }
  absl::Status SendOn(absl::Duration limit, const Shape& shape = kPeerShape) {
    for (uint64_t plan = 21; sender_.stream.status().ok(); ++plan) {
      sender_.Send(Pattern(shape, plan), plan, limit);
      sender_.stream.Fence();
    }
    return sender_.stream.status();
  }

  std::unique_ptr<GrpcEndpoint> endpoint_;
  std::unique_ptr<TransferPeer> peer_;
  Sender sender_;
};

TEST_F(GrpcSenderTest, AKilledReceiverIsSeenAtOnce) {
  StartReceivingPeer();
  peer_->Signal(SIGKILL);
  EXPECT_TRUE(Fails(SendOn(absl::InfiniteDuration()), absl::StatusCode::kUnavailable, {"unix:"}));
}

TEST_F(GrpcSenderTest, AStoppedReceiverRunsIntoTheDeadlineAndTheLaneEnds) {
  StartReceivingPeer();
  peer_->Stop();
  EXPECT_TRUE(Fails(SendOn(absl::Seconds(1)), absl::StatusCode::kDeadlineExceeded, {"hangs"}));
  // What lies in the outbox is let go without the peer's help, or this would hang.
  sender_.lane.reset();
}

TEST_F(GrpcSenderTest, PingsFindAReceiverThatIsGoneWithoutAWord) {
  StartReceivingPeer(kPings);
  peer_->Stop();
  // Little enough for the socket. A full one is TCP's to judge, which finds a host that is gone,
  // and lets a process be that is stopped; then the deadline helps, as above.
  EXPECT_TRUE(
      Fails(SendOn(absl::InfiniteDuration(), {16}), absl::StatusCode::kUnavailable, {"unix:"}));
}

TEST_F(GrpcSenderTest, AReceiverThatHangsBeforeItOpens) {
  endpoint_ = std::make_unique<GrpcEndpoint>(UnixAddress(), GrpcTransportOptions{});
  const std::string address = UnixAddress();
  peer_ = std::make_unique<TransferPeer>("receive", address);
  ASSERT_TRUE(peer_->WaitReady());
  peer_->Stop();
  EXPECT_TRUE(Fails(endpoint_->transport().Connect(address, LaneKind::kRows, 1, absl::Seconds(1)),
                    absl::StatusCode::kUnavailable, {address, "cannot be reached for 1s"}));
}

}  // namespace
}  // namespace penstock::testing
