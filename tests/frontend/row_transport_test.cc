#include "frontend/row_transport.h"

#include <gtest/gtest.h>

#include "tests/support/nccl_endpoint.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using testing::ScopedVariable;

RowTransportOptions Options(const std::string& transport, std::vector<std::string> devices) {
  RowTransportOptions options;
  options.transport = transport;
  options.devices = std::move(devices);
  options.max_step_tokens = 512;
  options.hidden_size = 4096;
  return options;
}

bool IsGrpc(const absl::StatusOr<RowTransport>& chosen) {
  return chosen.ok() && chosen->mailbox_bytes == 0 && !chosen->nccl;
}
bool IsNccl(const absl::StatusOr<RowTransport>& chosen) {
  return chosen.ok() && chosen->mailbox_bytes == 0 && chosen->nccl;
}

TEST(RowTransportTest, StagesOfOneMachineHaveAMailboxForTwoOfTheLargestTransfers) {
  const auto chosen = ChooseRowTransport(Options("peer", {"cpu", "cpu", "cpu"}));
  EXPECT_EQ(chosen->mailbox_bytes, 2 * 512 * 4096 * 4);
  EXPECT_FALSE(chosen->nccl);
  RowTransportOptions small = Options("peer", {"cpu", "cpu"});
  small.max_step_tokens = 1;
  EXPECT_EQ(ChooseRowTransport(small)->mailbox_bytes, int64_t{2} << 20);
}

TEST(RowTransportTest, RowsGoOverGrpcWhereItIsSaidOrThereIsNothingBetter) {
  const ScopedVariable none("PENSTOCK_NCCL_LIBRARY", "/nowhere/libnccl.so.2");
  EXPECT_TRUE(IsGrpc(ChooseRowTransport(Options("grpc", {"cpu", "cpu"}))));
  EXPECT_TRUE(IsGrpc(ChooseRowTransport(Options("auto", {"cpu", "cpu"}))));
  EXPECT_TRUE(IsGrpc(ChooseRowTransport(Options("peer", {"cpu"}))));
  // A CPU and a GPU have no memory in common, whether there is that GPU or not.
  EXPECT_TRUE(IsGrpc(ChooseRowTransport(Options("auto", {"cpu", "cuda:0"}))));
  RowTransportOptions elsewhere = Options("auto", {"cuda:0", "cuda:1"});
  elsewhere.are_elsewhere = true;
  EXPECT_TRUE(IsGrpc(ChooseRowTransport(elsewhere)));
}

TEST(RowTransportTest, RowsGoByNcclBetweenGpusThatDoNotReachEachOther) {
  const ScopedVariable fake("PENSTOCK_NCCL_LIBRARY", PENSTOCK_FAKE_NCCL);
  RowTransportOptions elsewhere = Options("auto", {"cuda:0", "cuda:0"});
  elsewhere.are_elsewhere = true;
  EXPECT_TRUE(IsNccl(ChooseRowTransport(elsewhere)));
  // No machine has that one, so no GPU reaches it.
  EXPECT_TRUE(IsNccl(ChooseRowTransport(Options("auto", {"cuda:0", "cuda:7777"}))));
  EXPECT_TRUE(IsNccl(ChooseRowTransport(Options("nccl", {"cuda:0", "cuda:1"}))));
  EXPECT_TRUE(IsGrpc(ChooseRowTransport(Options("auto", {"cpu", "cpu"}))));
  // Workers elsewhere have the library, or say that they have not.
  const ScopedVariable none("PENSTOCK_NCCL_LIBRARY", "/nowhere/libnccl.so.2");
  elsewhere.transport = "nccl";
  EXPECT_TRUE(IsNccl(ChooseRowTransport(elsewhere)));
}

TEST(RowTransportTest, ARefusalSaysWhatToDo) {
  EXPECT_TRUE(Fails(ChooseRowTransport(Options("peer", {"cuda:0", "cpu"})),
                    absl::StatusCode::kFailedPrecondition,
                    {"--transport peer", "cuda:0", "no memory in common", "--transport grpc"}));
  RowTransportOptions elsewhere = Options("peer", {"cpu", "cpu"});
  elsewhere.are_elsewhere = true;
  EXPECT_TRUE(Fails(ChooseRowTransport(elsewhere), absl::StatusCode::kFailedPrecondition,
                    {"--transport peer", "--stages", "nccl"}));
  EXPECT_TRUE(Fails(ChooseRowTransport(Options("mpi", {"cpu", "cpu"})),
                    absl::StatusCode::kInvalidArgument, {"auto, grpc, nccl and peer"}));
  RowTransportOptions huge = Options("peer", {"cpu", "cpu"});
  huge.max_step_tokens = INT64_MAX / 2;
  EXPECT_TRUE(
      Fails(ChooseRowTransport(huge), absl::StatusCode::kInvalidArgument, {"--max-step-tokens"}));
  EXPECT_FALSE(ChooseRowTransport(Options("peer", {"cuda:0", "cuda:7777"})).ok());
  const ScopedVariable none("PENSTOCK_NCCL_LIBRARY", "/nowhere/libnccl.so.2");
  EXPECT_TRUE(Fails(ChooseRowTransport(Options("nccl", {"cuda:0", "cuda:1"})),
                    absl::StatusCode::kFailedPrecondition,
                    {"--transport nccl", "/nowhere/libnccl.so.2", "--transport grpc"}));
}

}  // namespace
}  // namespace penstock
