// A stage's process as far as transports see it, for tests that kill or stop one.
//   transfer_peer receive <address>            opens the rows of epoch 1 at this address, takes all
//   transfer_peer send <address>               connects to the rows of epoch 1 there, sends for
//   ever
// Transfers are 1, 2, 3, ... of 256 KiB each (kPeerShape). The first sign of
// life is a line on standard output: "ready"; then "receive" writes a dot for each transfer.

#include <cstdio>
#include <cstring>

#include "core/base/check.h"
#include "tests/support/grpc_endpoint.h"

namespace penstock::testing {
namespace {

void Ready() {
  std::puts("ready");
  std::fflush(stdout);
}

int Receive(const char* address) {
  // So few that what was sent to it fits into its socket while it is stopped: pings get through.
  GrpcEndpoint endpoint(address, {.transport = {.window = 4}});
  Receiver receiver;
  receiver.lane = endpoint.transport().Open(LaneKind::kRows, 1);
  Ready();
  absl::Status status;
  for (uint64_t plan = 1; status.ok(); ++plan) {
    status = receiver.ReceivePattern(kPeerShape, plan);
    if (!status.ok()) break;
    std::putchar('.');
    std::fflush(stdout);
  }
  return status.code() == absl::StatusCode::kUnavailable ? 0 : 1;
}

int Send(const char* address) {
  GrpcEndpoint endpoint(kAnyPort, {});  // nothing to leave behind when it is killed
  auto connected = endpoint.transport().Connect(address, LaneKind::kRows, 1, kPatience);
  PENSTOCK_CHECK(connected.ok());
  Sender sender;
  sender.lane = *std::move(connected);
  Ready();
  for (uint64_t plan = 1; sender.stream.status().ok(); ++plan) {
    sender.Send(Pattern(kPeerShape, plan), plan, absl::InfiniteDuration());
    sender.stream.Fence();
  }
  return 1;
}

}  // namespace
}  // namespace penstock::testing

int main(int argc, char** argv) {
  PENSTOCK_CHECK_EQ(argc, 3);
  if (std::strcmp(argv[1], "receive") == 0) return penstock::testing::Receive(argv[2]);
  PENSTOCK_CHECK(std::strcmp(argv[1], "send") == 0);
  return penstock::testing::Send(argv[2]);
}
