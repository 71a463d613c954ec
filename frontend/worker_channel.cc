#include "frontend/worker_channel.h"

namespace penstock {
namespace {

// A host that vanishes closes no connection: it is asked for a sign of life after this much
// silence. (A worker that hangs is found by its beats.)
constexpr int kPingPeriodMs = 5000;
constexpr int kPingTimeoutMs = 5000;

}  // namespace

std::shared_ptr<grpc::Channel> MakeWorkerChannel(const std::string& address,
                                                 const ChannelFactory& factory) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (address.rfind("unix:", 0) != 0) {
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kPingPeriodMs);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMs);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // no limit
  }
  return factory(address, arguments);
}

}  // namespace penstock
