// What a peer of another version, or a broken one, can say to the transfer service.
#include "worker/transport/grpc_transfer_service.h"

#include <gtest/gtest.h>

#include <memory>

#include "proto/worker_protocol.h"
#include "tests/support/grpc_endpoint.h"
#include "tests/support/status_matchers.h"

namespace penstock::testing {
namespace {

constexpr int64_t kWindow = 4;

using worker::v1::TransferRequest;
using worker::v1::TransferResponse;

class GrpcTransferServiceTest : public ::testing::Test {
 protected:
  void SetUp() override { receiver_.lane = endpoint_.transport().Open(LaneKind::kRows, 3); }
  ~GrpcTransferServiceTest() override {
    context_.TryCancel();
    call_.reset();
  }

  void Open(uint32_t protocol, int lane, uint32_t epoch) {
    TransferRequest request;
    request.mutable_open()->set_protocol(protocol);
    request.mutable_open()->set_lane(static_cast<worker::v1::Lane>(lane));
    request.mutable_open()->set_epoch(epoch);
    call_->Write(request);
  }
  void OpenWell() {
    Open(kWorkerProtocol, worker::v1::LANE_ROWS, 3);
    TransferResponse response;
    ASSERT_TRUE(call_->Read(&response));
    EXPECT_TRUE(response.has_opened());
    ASSERT_TRUE(call_->Read(&response));
    EXPECT_EQ(response.credits(), kWindow);
  }
  void Chunk(uint64_t plan, int64_t total, int64_t offset, const std::string& data) {
    TransferRequest request;
    request.mutable_chunk()->set_plan(plan);
    request.mutable_chunk()->set_total_bytes(total);
    request.mutable_chunk()->set_offset(offset);
    request.mutable_chunk()->set_data(data);
    call_->Write(request);
  }
  // How the service ends the call.
  absl::Status End() {
    TransferResponse response;
    while (call_->Read(&response)) {
    }
    const grpc::Status status = call_->Finish();
    return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
  }
  absl::Status Receive() {
    receiver_.Receive(Poisoned({1}), 1, absl::InfiniteDuration());
    receiver_.stream.Fence();
    return receiver_.stream.status();
  }

  GrpcEndpoint endpoint_{UnixAddress(), {.transport = {.window = kWindow}}};
  Receiver receiver_;
  const std::unique_ptr<worker::v1::Transfer::Stub> stub_ = worker::v1::Transfer::NewStub(
      InsecureChannel(endpoint_.transport().address(), grpc::ChannelArguments()));
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<TransferRequest, TransferResponse>> call_ =
      stub_->Push(&context_);
};

TEST_F(GrpcTransferServiceTest, TakesAWellBehavedPeer) {
  OpenWell();
  Chunk(1, 4, 0, "ab");
  Chunk(1, 4, 2, "cd");
  EXPECT_TRUE(IsOk(Receive()));
  TransferResponse response;
  ASSERT_TRUE(call_->Read(&response));
  EXPECT_EQ(response.credits(), 1);
  // It may also end as it should.
  call_->WritesDone();
  EXPECT_TRUE(Fails(End(), absl::StatusCode::kUnavailable, {"closed its end"}));
}

TEST_F(GrpcTransferServiceTest, RefusesAnotherProtocol) {
  Open(kWorkerProtocol + 1, worker::v1::LANE_ROWS, 3);
  EXPECT_TRUE(Fails(End(), absl::StatusCode::kFailedPrecondition,
                    {"protocol 2", "run one release everywhere"}));
}

TEST_F(GrpcTransferServiceTest, RefusesAChunkBeforeTheLaneIsOpen) {
  Chunk(1, 4, 0, "abcd");
  EXPECT_TRUE(Fails(End(), absl::StatusCode::kFailedPrecondition, {"must open a lane"}));
}

TEST_F(GrpcTransferServiceTest, RefusesAnEmptyMessage) {
  call_->Write(TransferRequest());
  EXPECT_TRUE(Fails(End(), absl::StatusCode::kFailedPrecondition, {"must open a lane"}));
}

TEST_F(GrpcTransferServiceTest, RefusesAKindThatThereIsNot) {
  for (const int lane : {2, -1, 1 << 30}) {
    grpc::ClientContext context;
    call_ = stub_->Push(&context);
    Open(kWorkerProtocol, lane, 3);
    EXPECT_TRUE(Fails(End(), absl::StatusCode::kInvalidArgument, {"kind"}));
    call_.reset();
  }
}

TEST_F(GrpcTransferServiceTest, OpeningTwiceEndsTheLane) {
  OpenWell();
  Open(kWorkerProtocol, worker::v1::LANE_ROWS, 3);
  EXPECT_TRUE(Fails(End(), absl::StatusCode::kInternal, {"chunks only"}));
  EXPECT_TRUE(Fails(Receive(), absl::StatusCode::kInternal, {"chunks only"}));
}

TEST_F(GrpcTransferServiceTest, MoreThanTheLimitEndsTheLaneBeforeAnythingIsKept) {
  OpenWell();
  Chunk(1, (int64_t{1} << 30) + 1, 0, "abcd");
  EXPECT_TRUE(Fails(End(), absl::StatusCode::kInternal, {"more than 1073741824 bytes"}));
  EXPECT_TRUE(Fails(Receive(), absl::StatusCode::kInternal, {"more than 1073741824 bytes"}));
}

TEST_F(GrpcTransferServiceTest, ASenderThatIgnoresItsCreditsEndsTheLane) {
  OpenWell();
  for (int64_t plan = 1; plan <= kWindow + 1; ++plan)
    Chunk(static_cast<uint64_t>(plan), 4, 0, "abcd");
  EXPECT_TRUE(Fails(End(), absl::StatusCode::kInternal, {"room for 4"}));
}

TEST_F(GrpcTransferServiceTest, ASenderThatBreaksOffInATransfer) {
  OpenWell();
  Chunk(1, 4, 0, "ab");
  context_.TryCancel();
  EXPECT_TRUE(Fails(Receive(), absl::StatusCode::kUnavailable, {"sending stage"}));
}

TEST_F(GrpcTransferServiceTest, ShutdownRefusesWhoWaits) {
  GrpcTransferService service{TransportOptions{}};
  grpc::ServerBuilder builder;
  const std::string address = UnixAddress();
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.RegisterService(&service.service());
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  grpc::ClientContext context;
  const auto stub =
      worker::v1::Transfer::NewStub(InsecureChannel(address, grpc::ChannelArguments()));
  call_ = stub->Push(&context);
  Open(kWorkerProtocol, worker::v1::LANE_ROWS, 3);
  service.Shutdown();
  EXPECT_TRUE(Fails(End(), absl::StatusCode::kUnavailable, {"is ending"}));
  call_.reset();
  server->Shutdown();  // nothing is left to wait for
}

}  // namespace
}  // namespace penstock::testing
