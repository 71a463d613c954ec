// Rows by peer memory from and to another process, which is killed or stopped: over the host's
// memory, and over a GPU's where there is one. PENSTOCK_TEST_DEVICES, such as cuda:0,cuda:1, names
// this process's GPU and the other one's.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/support/peer_endpoint.h"
#include "tests/support/status_matchers.h"
#include "tests/support/transfer_peer.h"
#ifdef PENSTOCK_CUDA
#include "tests/support/gpu.h"
#endif

namespace penstock::testing {
namespace {

class PeerProcessTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    own_ = other_ = GetParam();
#ifdef PENSTOCK_CUDA
    if (GetParam() == "cpu") return;
    if (!GpuCall::Available()) GTEST_SKIP();
    const char* const devices = std::getenv("PENSTOCK_TEST_DEVICES");
    if (devices == nullptr) return;
    const std::string both = devices;
    own_ = both.substr(0, both.find(','));
    other_ = both.substr(both.find(',') + 1);
#endif
  }
  std::unique_ptr<PeerEndpoint> Endpoint() const {
    return std::make_unique<PeerEndpoint>(std::make_shared<LocalExchange>(), own_, int64_t{2} << 20,
                                          TransportOptions{.window = 4});
  }
  std::unique_ptr<TransferPeer> Peer(const std::string& role, const std::string& address) const {
    auto peer = std::make_unique<TransferPeer>(role + ":" + other_, address);
    EXPECT_TRUE(peer->WaitReady());
    return peer;
  }
  void Receive(uint64_t first, uint64_t last) {
    for (uint64_t plan = first; plan <= last; ++plan) {
      ASSERT_TRUE(IsOk(receiver_.ReceivePattern(kPeerShape, plan))) << plan;
    }
  }
  // Takes what has come whole, and what comes, until something is wrong.
  absl::Status ReceiveOn(uint64_t plan, absl::Duration limit) {
    absl::Status status;
    while (status.ok()) status = receiver_.ReceivePattern(kPeerShape, plan++, limit);
    return status;
  }
  absl::Status SendOn(uint64_t plan, absl::Duration limit) {
    while (sender_.stream.status().ok()) {
      sender_.Send(Pattern(kPeerShape, plan), plan, limit);
      ++plan;
      sender_.stream.Fence();
    }
    return sender_.stream.status();
  }
  void Connect(const std::string& address) {
    auto connected = endpoint_->transport().Connect(address, LaneKind::kRows, 1, kPatience);
    ASSERT_TRUE(IsOk(connected));
    sender_.lane = *std::move(connected);
  }

  std::string own_, other_;
  std::unique_ptr<PeerEndpoint> endpoint_;
  Sender sender_;
  Receiver receiver_;
};

TEST_P(PeerProcessTest, AKilledSenderIsSeenAtOnceAndReplaced) {
  endpoint_ = Endpoint();
  receiver_.lane = endpoint_->transport().Open(LaneKind::kRows, 1);
  auto peer = Peer("peer-send", endpoint_->transport().address());
  Receive(1, 40);
  peer->Signal(SIGKILL);
  EXPECT_TRUE(Fails(ReceiveOn(41, absl::InfiniteDuration()), absl::StatusCode::kUnavailable,
                    {"sending stage"}));
  // The mailbox is as good as before. The peer knows epoch 1 only, and so does a new endpoint.
  receiver_.stream.Reset();
  receiver_.lane.reset();
  endpoint_ = Endpoint();
  receiver_.lane = endpoint_->transport().Open(LaneKind::kRows, 1);
  peer = Peer("peer-send", endpoint_->transport().address());
  Receive(1, 10);
}

TEST_P(PeerProcessTest, AStoppedSenderRunsIntoTheDeadlineAndGoesOn) {
  endpoint_ = Endpoint();
  receiver_.lane = endpoint_->transport().Open(LaneKind::kRows, 1);
  const auto peer = Peer("peer-send", endpoint_->transport().address());
  Receive(1, 20);
  peer->Stop();
  EXPECT_TRUE(
      Fails(ReceiveOn(21, absl::Seconds(1)), absl::StatusCode::kDeadlineExceeded, {"hangs"}));
  peer->Signal(SIGCONT);
  receiver_.stream.Reset();
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(kPeerShape, 40)));
}

TEST_P(PeerProcessTest, AKilledReceiverIsSeenAtOnceAndReplaced) {
  endpoint_ = Endpoint();
  for (int round = 0; round < 2; ++round) {
    const auto peer = Peer("peer-receive", "");
    ASSERT_NO_FATAL_FAILURE(Connect(peer->ReadAddress()));
    for (uint64_t plan = 1; plan <= 20; ++plan) sender_.Send(Pattern(kPeerShape, plan), plan);
    EXPECT_TRUE(peer->WaitReceived(20));
    sender_.stream.Fence();
    ASSERT_TRUE(IsOk(sender_.stream.status()));
    peer->Signal(SIGKILL);
    EXPECT_TRUE(Fails(SendOn(21, absl::InfiniteDuration()), absl::StatusCode::kUnavailable,
                      {"receiving stage"}));
    sender_.stream.Reset();
    sender_.lane.reset();
  }
}

TEST_P(PeerProcessTest, AStoppedReceiverRunsIntoTheDeadlineAndTheLaneEnds) {
  endpoint_ = Endpoint();
  const auto peer = Peer("peer-receive", "");
  ASSERT_NO_FATAL_FAILURE(Connect(peer->ReadAddress()));
  peer->Stop();
  EXPECT_TRUE(Fails(SendOn(1, absl::Seconds(1)), absl::StatusCode::kDeadlineExceeded, {"hangs"}));
  sender_.lane.reset();  // without the peer's help
}

INSTANTIATE_TEST_SUITE_P(Host, PeerProcessTest, ::testing::Values("cpu"),
                         [](const auto&) { return std::string("Cpu"); });
#ifdef PENSTOCK_CUDA
INSTANTIATE_TEST_SUITE_P(Gpu, PeerProcessTest, ::testing::Values("cuda:0"),
                         [](const auto&) { return std::string("Cuda"); });
#endif

}  // namespace
}  // namespace penstock::testing
