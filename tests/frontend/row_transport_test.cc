#include "frontend/row_transport.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

RowTransportOptions Options(const std::string& transport, std::vector<std::string> devices) {
  RowTransportOptions options;
  options.transport = transport;
  options.devices = std::move(devices);
  options.max_step_tokens = 512;
  options.hidden_size = 4096;
  return options;
}

TEST(RowTransportTest, StagesOfOneMachineHaveAMailboxForTwoOfTheLargestTransfers) {
  EXPECT_EQ(*ChooseMailbox(Options("peer", {"cpu", "cpu", "cpu"})), 2 * 512 * 4096 * 4);
  RowTransportOptions small = Options("peer", {"cpu", "cpu"});
  small.max_step_tokens = 1;
  EXPECT_EQ(*ChooseMailbox(small), int64_t{2} << 20);
}

TEST(RowTransportTest, RowsGoOverGrpcWhereItIsSaidOrThereIsNoGpu) {
  EXPECT_EQ(*ChooseMailbox(Options("grpc", {"cpu", "cpu"})), 0);
  EXPECT_EQ(*ChooseMailbox(Options("auto", {"cpu", "cpu"})), 0);
  EXPECT_EQ(*ChooseMailbox(Options("peer", {"cpu"})), 0);
  // A CPU and a GPU have no memory in common, whether there is that GPU or not.
  EXPECT_EQ(*ChooseMailbox(Options("auto", {"cpu", "cuda:0"})), 0);
  RowTransportOptions elsewhere = Options("auto", {"cuda:0", "cuda:1"});
  elsewhere.are_elsewhere = true;
  EXPECT_EQ(*ChooseMailbox(elsewhere), 0);
}

TEST(RowTransportTest, ARefusalSaysWhatToDo) {
  EXPECT_TRUE(Fails(ChooseMailbox(Options("peer", {"cuda:0", "cpu"})),
                    absl::StatusCode::kFailedPrecondition,
                    {"--transport peer", "cuda:0", "no memory in common", "--transport grpc"}));
  RowTransportOptions elsewhere = Options("peer", {"cpu", "cpu"});
  elsewhere.are_elsewhere = true;
  EXPECT_TRUE(Fails(ChooseMailbox(elsewhere), absl::StatusCode::kFailedPrecondition,
                    {"--transport peer", "--stages"}));
  EXPECT_TRUE(Fails(ChooseMailbox(Options("nccl", {"cpu", "cpu"})),
                    absl::StatusCode::kInvalidArgument, {"auto, grpc and peer"}));
  RowTransportOptions huge = Options("peer", {"cpu", "cpu"});
  huge.max_step_tokens = INT64_MAX / 2;
  EXPECT_TRUE(
      Fails(ChooseMailbox(huge), absl::StatusCode::kInvalidArgument, {"--max-step-tokens"}));
  EXPECT_FALSE(ChooseMailbox(Options("peer", {"cuda:0", "cuda:7777"})).ok());
}

}  // namespace
}  // namespace penstock
