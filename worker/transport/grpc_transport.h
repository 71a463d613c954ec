// The transport between processes and hosts on the CPU: calls of penstock.worker.v1.Transfer, one a
// lane, over a connection of its own.
//
// A peer that ends is seen at once, since its sockets close. A host that vanishes closes nothing:
// between hosts set ping_period, and the connection breaks once a ping stays without an answer.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "worker/transport/grpc_transfer_service.h"
#include "worker/transport/transport.h"

namespace penstock {

struct GrpcTransportOptions {
  TransportOptions transport = {};
  int64_t chunk_bytes = 1 << 20;  // of one message; > 0
  // How long a connection may be silent before the other end is asked for a sign of life, and how
  // long that may take. Zero: never; right within a host, where a stage that is stopped for a while
  // is the front end's to judge.
  absl::Duration ping_period = absl::ZeroDuration();
  absl::Duration ping_timeout = absl::Seconds(5);
};

// Makes a channel: grpc::CreateCustomChannel with the caller's credentials (insecure on unix
// sockets, mTLS between hosts) and these arguments. Addresses are what gRPC takes: "unix:/path",
// "host:port".
using ChannelFactory = std::function<std::shared_ptr<grpc::Channel>(
    const std::string& address, const grpc::ChannelArguments& arguments)>;

// `address`: where the server with `service` listens, as other stages reach it. The service must
// outlive neither the transport nor its lanes.
std::unique_ptr<Transport> MakeGrpcTransport(const GrpcTransferService& service,
                                             std::string address, ChannelFactory make_channel,
                                             const GrpcTransportOptions& options = {});

// What the server that GrpcTransferService stands on must know: large frames, pings.
void ConfigureTransferServer(const GrpcTransportOptions& options, grpc::ServerBuilder& builder);

}  // namespace penstock
