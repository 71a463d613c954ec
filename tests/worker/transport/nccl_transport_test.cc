// Rows by NCCL: the suite with a stand-in for the library, which needs no GPU, and with the library
// itself where there are two GPUs; and what only this transport does.
#include "worker/transport/nccl_transport.h"

#include <gtest/gtest.h>

#include <future>

#include "tests/support/nccl_gpus.h"
#include "tests/worker/transport/transport_suite.h"
#include "worker/transport/nccl_pair.h"

namespace penstock::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(Nccl, TransportTest, ::testing::Values(FakeNcclKind()), KindName);
INSTANTIATE_TEST_SUITE_P(Nccl, FaultTest, ::testing::Values(FakeNcclKind()), KindName);
#ifdef PENSTOCK_CUDA
INSTANTIATE_TEST_SUITE_P(NcclGpus, TransportTest, ::testing::Values(NcclGpusKind()), KindName);
INSTANTIATE_TEST_SUITE_P(NcclGpus, FaultTest, ::testing::Values(NcclGpusKind()), KindName);
#endif

constexpr char kLibrary[] = "PENSTOCK_NCCL_LIBRARY";
const Shape kRows{4, 256};

class NcclTransportTest : public ::testing::Test {
 protected:
  std::unique_ptr<NcclEndpoint> Make() {
    return std::make_unique<NcclEndpoint>(make_local_({}), "cpu", TransportOptions{},
                                          absl::Milliseconds(100));
  }
  absl::Status Connect(absl::Duration limit = kPatience) {
    auto connected = a_->transport().Connect(b_->transport().address(), LaneKind::kRows, 1, limit);
    PENSTOCK_RETURN_IF_ERROR(connected.status());
    sender_.lane = *std::move(connected);
    return absl::OkStatus();
  }
  absl::Status Start() {
    a_ = Make();
    b_ = Make();
    receiver_.lane = b_->transport().Open(LaneKind::kRows, 1);
    return Connect();
  }
  // A sender by hand, whose other transport and NCCL one can use apart: up to the communicator.
  void StartByHand() {
    local_ = make_local_({});
    b_ = Make();
    receiver_.lane = b_->transport().Open(LaneKind::kRows, 1);
    auto headers =
        local_->transport().Connect(b_->transport().address(), LaneKind::kRows, 1, kPatience);
    ASSERT_TRUE(IsOk(headers));
    headers_ = *std::move(headers);
    NcclPairOptions options;
    options.library = *NcclLibrary::Open();
    options.stream = std::make_shared<HostLinkStream>(kNcclPieceBytes);
    options.ended = [] { return absl::OkStatus(); };
    NcclId id;
    options.library->get_unique_id(&id);
    Tensor hello = testing::Make(DataType::kI64, {18});
    auto* words = static_cast<int64_t*>(hello.raw());
    words[0] = 1;
    words[1] = options.library->version;
    std::memcpy(words + 2, id.bytes, sizeof(id));
    ASSERT_TRUE(IsOk(headers_->SendNow(hello, 1, kPatience)));
    auto pair = NcclPair::Connect(options, id, NcclPair::Role::kSends, Deadline(kPatience));
    ASSERT_TRUE(IsOk(pair));
    pair_ = *std::move(pair);
  }
  absl::Status Announce(int64_t plan, int64_t bytes) {
    Tensor header = testing::Make(DataType::kI64, {2});
    auto* words = static_cast<int64_t*>(header.raw());
    words[0] = plan;
    words[1] = bytes;
    return headers_->SendNow(header, ++announced_, kPatience);
  }

  const ScopedVariable library_{kLibrary, PENSTOCK_FAKE_NCCL};
  const MakeEndpoint make_local_ = LocalKind().make_world();
  std::unique_ptr<Endpoint> local_;
  std::unique_ptr<NcclEndpoint> a_, b_;
  std::unique_ptr<SendLane> headers_;
  std::unique_ptr<NcclPair> pair_;
  uint64_t announced_ = 1;
  Sender sender_;
  Receiver receiver_;
};

TEST_F(NcclTransportTest, WhatIsPassedOverIsTakenOutOfTheWay) {
  ASSERT_TRUE(IsOk(Start()));
  const Shape large{1100, 1024};  // more than one piece
  sender_.Send(Pattern(large, 1), 1);
  sender_.Send(Pattern(kRows, 2), 2);
  sender_.Send(Pattern(large, 3), 3);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(kRows, 2)));
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(large, 3)));
}

TEST_F(NcclTransportTest, TokensGoByTheOtherTransport) {
  a_ = Make();
  b_ = Make();
  const ScopedVariable fails("FAKE_NCCL_FAILS", "id");
  receiver_.lane = b_->transport().Open(LaneKind::kTokens, 1);
  auto connected =
      a_->transport().Connect(b_->transport().address(), LaneKind::kTokens, 1, kPatience);
  ASSERT_TRUE(IsOk(connected));
  sender_.lane = *std::move(connected);
  sender_.Send(Pattern(kRows, 1), 1);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(kRows, 1)));
}

// What a sender looks like that was killed, or hangs, between the header and its bytes.
TEST_F(NcclTransportTest, BytesThatDoNotComeRunIntoTheDeadlineAndTheLaneEnds) {
  ASSERT_NO_FATAL_FAILURE(StartByHand());
  ASSERT_TRUE(IsOk(Announce(1, 4096)));
  EXPECT_TRUE(Fails(receiver_.ReceivePattern(kRows, 1, kSoon), absl::StatusCode::kDeadlineExceeded,
                    {"through NCCL", "50ms", "hangs"}));
  receiver_.stream.Reset();
  ASSERT_TRUE(IsOk(Announce(2, 4096)));
  EXPECT_TRUE(
      Fails(receiver_.ReceivePattern(kRows, 2), absl::StatusCode::kUnavailable, {"new epoch"}));
}

TEST_F(NcclTransportTest, TheOtherTransportTellsOfADeadSenderWhileBytesAreAwaited) {
  ASSERT_NO_FATAL_FAILURE(StartByHand());
  ASSERT_TRUE(IsOk(Announce(1, 4096)));
  receiver_.Receive(Poisoned(kRows), 1, absl::InfiniteDuration());
  absl::SleepFor(absl::Milliseconds(20));
  headers_.reset();
  receiver_.stream.Fence();
  EXPECT_TRUE(Fails(receiver_.stream.status(), absl::StatusCode::kUnavailable, {"sending stage"}));
}

TEST_F(NcclTransportTest, CancelEndsAWaitForBytes) {
  ASSERT_NO_FATAL_FAILURE(StartByHand());
  ASSERT_TRUE(IsOk(Announce(1, 4096)));
  receiver_.Receive(Poisoned(kRows), 1, absl::InfiniteDuration());
  absl::SleepFor(absl::Milliseconds(20));
  receiver_.lane->Cancel();
  receiver_.stream.Fence();
  EXPECT_TRUE(Fails(receiver_.stream.status(), absl::StatusCode::kCancelled, {}));
}

TEST_F(NcclTransportTest, AHeaderOfMoreThanTheLimitIsRefused) {
  ASSERT_NO_FATAL_FAILURE(StartByHand());
  ASSERT_TRUE(IsOk(Announce(1, int64_t{1} << 40)));
  EXPECT_TRUE(Fails(receiver_.ReceivePattern(kRows, 1), absl::StatusCode::kInternal,
                    {"1099511627776 bytes", "more than"}));
}

TEST_F(NcclTransportTest, AConnectionThatDoesNotComeUpSaysWhatToDo) {
  const ScopedVariable hangs("FAKE_NCCL_HANGS", "init");
  a_ = Make();
  b_ = Make();
  receiver_.lane = b_->transport().Open(LaneKind::kRows, 1);
  EXPECT_TRUE(Fails(Connect(kSoon), absl::StatusCode::kDeadlineExceeded,
                    {b_->transport().address(), "50ms", "NCCL_SOCKET_IFNAME", "--transport grpc"}));
  // The receiver is told by the other transport, and waits no longer.
  EXPECT_TRUE(Fails(receiver_.ReceivePattern(kRows, 1), absl::StatusCode::kUnavailable, {}));
}

TEST_F(NcclTransportTest, WhatNcclSaysIsHandedOn) {
  for (const char* fails : {"id", "init", "send"}) {
    SCOPED_TRACE(fails);
    const ScopedVariable told("FAKE_NCCL_FAILS", fails);
    EXPECT_TRUE(Fails(Start(), absl::StatusCode::kInternal,
                      {"the stand-in was told to", "--transport grpc"}));
    receiver_.lane.reset();
  }
}

TEST_F(NcclTransportTest, TheSenderHearsOfAReceiverThatCannot) {
  a_ = Make();
  const ScopedVariable version("FAKE_NCCL_VERSION", "22203");
  b_ = Make();
  receiver_.lane = b_->transport().Open(LaneKind::kRows, 1);
  EXPECT_TRUE(Fails(Connect(), absl::StatusCode::kUnavailable, {"receiving stage"}));
  EXPECT_TRUE(Fails(receiver_.ReceivePattern(kRows, 1), absl::StatusCode::kFailedPrecondition,
                    {"2.28.9", "2.22.3", "one version"}));
}

// Whoever has started the process starts it again.
TEST_F(NcclTransportTest, AnAbortThatHangsEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        static_cast<void>(Start());
        setenv("FAKE_NCCL_HANGS", "abort", 1);
        sender_.lane.reset();
      },
      ::testing::ExitedWithCode(1), "NCCL has not ended a connection within 100ms");
}

TEST_F(NcclTransportTest, StagesThatItCannotConnect) {
  EXPECT_TRUE(IsOk(CheckNcclDevices({"cpu", "cpu"})));  // the stand-in can
  const ScopedVariable none(kLibrary, "/nowhere/libnccl.so.2");
  EXPECT_TRUE(Fails(CheckNcclDevices({"cuda:0", "cuda:1"}), absl::StatusCode::kFailedPrecondition,
                    {"/nowhere", "--transport grpc"}));
}

TEST(NcclDevicesTest, AreGpusAndDiffer) {
  EXPECT_TRUE(IsOk(CheckGpusForNccl({"cuda:0", "cuda:1"})));
  EXPECT_TRUE(Fails(CheckGpusForNccl({"cuda:0", "cpu"}), absl::StatusCode::kFailedPrecondition,
                    {"on the cpu", "--device", "--transport grpc"}));
  EXPECT_TRUE(Fails(CheckGpusForNccl({"cuda:1", "cuda:1"}), absl::StatusCode::kFailedPrecondition,
                    {"cuda:1 has two", "--device"}));
}

}  // namespace
}  // namespace penstock::testing
