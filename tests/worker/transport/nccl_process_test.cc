// Rows by NCCL from and to another process, which is killed or stopped, over gRPC, which tells of a
// dead process where NCCL does not: with a stand-in for the library, and with NCCL itself where
// there is a GPU. PENSTOCK_TEST_DEVICES, such as cuda:0,cuda:1, names this process's GPU and the
// other one's; on one GPU NCCL is told that they are two hosts, and goes by sockets.
#include <gtest/gtest.h>

#include "tests/support/grpc_endpoint.h"
#include "tests/support/nccl_gpus.h"
#include "tests/support/status_matchers.h"
#include "tests/support/transfer_peer.h"
#ifdef PENSTOCK_CUDA
#include "tests/support/gpu.h"
#endif

namespace penstock::testing {
namespace {

class NcclProcessTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    own_ = other_ = GetParam();
#ifdef PENSTOCK_CUDA
    if (GetParam() == "cpu") return;
    if (!GpuCall::Available() || !NcclLibrary::Open().ok()) {
      GTEST_SKIP() << "it takes a GPU and NCCL";
    }
    const char* const devices = std::getenv("PENSTOCK_TEST_DEVICES");
    if (devices == nullptr) return;
    const std::string both = devices;
    own_ = both.substr(0, both.find(','));
    other_ = both.substr(both.find(',') + 1);
#endif
  }
  void MakeEndpoint() {
    const TransportOptions options{.window = 4};
    endpoint_ = MakeNcclEndpoint(
        std::make_unique<GrpcEndpoint>(address_, GrpcTransportOptions{.transport = options}), own_,
        options);
  }
  std::unique_ptr<TransferPeer> Peer(const std::string& role, const std::string& address) const {
    std::optional<ScopedVariable> host;
    if (own_ == other_) host.emplace("NCCL_HOSTID", "penstock-test-peer");
    auto peer = std::make_unique<TransferPeer>(role + ":" + other_, address);
    host.reset();  // before NCCL of this process reads it, once it hears of the peer
    EXPECT_TRUE(peer->WaitReady());
    return peer;
  }
  std::unique_ptr<TransferPeer> StartSender() {
    receiver_.lane = endpoint_->transport().Open(LaneKind::kRows, 1);
    auto peer = Peer("nccl-send", address_);
    for (uint64_t plan = 1; plan <= 20; ++plan) {
      EXPECT_TRUE(IsOk(receiver_.ReceivePattern(kPeerShape, plan)));
    }
    return peer;
  }
  absl::Status ReceiveOn(absl::Duration limit) {
    absl::Status status;
    for (uint64_t plan = 21; status.ok(); ++plan) {
      status = receiver_.ReceivePattern(kPeerShape, plan, limit);
    }
    return status;
  }
  std::unique_ptr<TransferPeer> StartReceiver() {
    const std::string address = UnixAddress();
    auto peer = Peer("nccl-receive", address);
    auto connected = endpoint_->transport().Connect(address, LaneKind::kRows, 1, kPatience);
    EXPECT_TRUE(IsOk(connected));
    sender_.lane = *std::move(connected);
    for (uint64_t plan = 1; plan <= 20; ++plan) sender_.Send(Pattern(kPeerShape, plan), plan);
    sender_.stream.Fence();
    EXPECT_TRUE(IsOk(sender_.stream.status()));
    EXPECT_TRUE(peer->WaitReceived(20));
    return peer;
  }
  absl::Status SendOn(absl::Duration limit) {
    for (uint64_t plan = 21; sender_.stream.status().ok(); ++plan) {
      sender_.Send(Pattern(kPeerShape, plan), plan, limit);
      sender_.stream.Fence();
    }
    return sender_.stream.status();
  }

  const ScopedVariable library_{"PENSTOCK_NCCL_LIBRARY",
                                GetParam() == "cpu" ? PENSTOCK_FAKE_NCCL : ""};
  std::string own_, other_;
  const std::string address_ = UnixAddress();
  std::unique_ptr<Endpoint> endpoint_;
  Sender sender_;
  Receiver receiver_;
};

TEST_P(NcclProcessTest, AKilledSenderIsSeenAtOnceAndReplaced) {
  for (int round = 0; round < 2; ++round) {
    endpoint_.reset();  // the peer knows epoch 1 only
    MakeEndpoint();
    const auto peer = StartSender();
    peer->Signal(SIGKILL);
    EXPECT_TRUE(Fails(ReceiveOn(absl::InfiniteDuration()), absl::StatusCode::kUnavailable,
                      {"sending stage"}));
    receiver_.stream.Reset();
    receiver_.lane.reset();
  }
}

TEST_P(NcclProcessTest, AStoppedSenderRunsIntoTheDeadline) {
  MakeEndpoint();
  const auto peer = StartSender();
  peer->Stop();
  EXPECT_TRUE(Fails(ReceiveOn(absl::Seconds(1)), absl::StatusCode::kDeadlineExceeded, {"hangs"}));
  receiver_.lane.reset();  // without the peer's help
}

TEST_P(NcclProcessTest, AKilledReceiverIsSeenAtOnceAndReplaced) {
  MakeEndpoint();
  for (int round = 0; round < 2; ++round) {
    const auto peer = StartReceiver();
    peer->Signal(SIGKILL);
    EXPECT_TRUE(Fails(SendOn(absl::InfiniteDuration()), absl::StatusCode::kUnavailable, {"unix:"}));
    sender_.stream.Reset();
    sender_.lane.reset();
  }
}

TEST_P(NcclProcessTest, AStoppedReceiverRunsIntoTheDeadlineAndTheLaneEnds) {
  MakeEndpoint();
  const auto peer = StartReceiver();
  peer->Stop();
  EXPECT_TRUE(Fails(SendOn(absl::Seconds(1)), absl::StatusCode::kDeadlineExceeded, {"hangs"}));
  sender_.lane.reset();
}

INSTANTIATE_TEST_SUITE_P(StandIn, NcclProcessTest, ::testing::Values("cpu"),
                         [](const auto&) { return std::string("Cpu"); });
#ifdef PENSTOCK_CUDA
INSTANTIATE_TEST_SUITE_P(Gpu, NcclProcessTest, ::testing::Values("cuda:0"),
                         [](const auto&) { return std::string("Cuda"); });
#endif

}  // namespace
}  // namespace penstock::testing
