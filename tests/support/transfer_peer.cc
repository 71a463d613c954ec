// A stage's process as far as transports see it, for tests that kill or stop one.
//   transfer_peer receive <address>            opens the rows of epoch 1 at this address, takes all
//   transfer_peer send <address>               connects to the rows of epoch 1 there, sends for
//   ever
//   transfer_peer peer-receive:<device> ""     the same by peer memory, at an address of its own
//   transfer_peer peer-send:<device> <address>
//   transfer_peer nccl-receive:<device> <address>   as receive and send, with the bytes by NCCL
//   transfer_peer nccl-send:<device> <address>
// Transfers are 1, 2, 3, ... of 256 KiB each (kPeerShape). The first sign of life is a line on
// standard output: "ready", and the address if it was not given; then who receives writes a dot for
// each transfer.

#include <cstdio>
#include <string>

#include "core/base/check.h"
#include "tests/support/grpc_endpoint.h"
#include "tests/support/nccl_gpus.h"
#include "tests/support/peer_endpoint.h"

namespace penstock::testing {
namespace {

// So few that what was sent to it fits into its socket while it is stopped: pings get through.
constexpr TransportOptions kFew{.window = 4};

std::unique_ptr<PeerEndpoint> ByPeerMemory(const std::string& device) {
  return std::make_unique<PeerEndpoint>(std::make_shared<LocalExchange>(), device, int64_t{2} << 20,
                                        kFew);
}

void Ready(const std::string& address = "") {
  std::puts(("ready" + (address.empty() ? "" : " " + address)).c_str());
  std::fflush(stdout);
}

int Receive(Endpoint& endpoint, const std::string& told) {
  Receiver receiver;
  receiver.lane = endpoint.transport().Open(LaneKind::kRows, 1);
  Ready(told);
  absl::Status status;
  for (uint64_t plan = 1; status.ok(); ++plan) {
    status = receiver.ReceivePattern(kPeerShape, plan);
    if (!status.ok()) break;
    std::putchar('.');
    std::fflush(stdout);
  }
  return status.code() == absl::StatusCode::kUnavailable ? 0 : 1;
}

int Send(Endpoint& endpoint, const std::string& address) {
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
  using namespace penstock::testing;  // NOLINT(google-build-using-namespace)
  PENSTOCK_CHECK_EQ(argc, 3);
  const std::string role = argv[1];
  const std::string address = argv[2];
  if (role == "receive") {
    GrpcEndpoint endpoint(address, {.transport = kFew});
    return Receive(endpoint, "");
  }
  if (role == "send") {
    GrpcEndpoint endpoint(kAnyPort, {});  // nothing to leave behind when it is killed
    return Send(endpoint, address);
  }
  const size_t colon = role.find(':');
  PENSTOCK_CHECK(colon != std::string::npos);
  if (role.rfind("nccl-", 0) == 0) {
    const bool receives = role.rfind("nccl-receive:", 0) == 0;
    const auto endpoint = MakeNcclEndpoint(
        std::make_unique<GrpcEndpoint>(receives ? address : UnixAddress(),
                                       penstock::GrpcTransportOptions{.transport = kFew}),
        role.substr(colon + 1), kFew);
    return receives ? Receive(*endpoint, "") : Send(*endpoint, address);
  }
  const auto endpoint = ByPeerMemory(role.substr(colon + 1));
  if (role.rfind("peer-receive:", 0) == 0) {
    return Receive(*endpoint, endpoint->transport().address());
  }
  PENSTOCK_CHECK(role.rfind("peer-send:", 0) == 0);
  return Send(*endpoint, address);
}
