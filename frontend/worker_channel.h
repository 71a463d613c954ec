// The channel of a front end to a worker. Each connection has one of its own: nothing of a worker
// that died, its backoff least of all, may reach the one to its successor.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "worker/transport/grpc_credentials.h"

namespace penstock {

std::shared_ptr<grpc::Channel> MakeWorkerChannel(const std::string& address,
                                                 const ChannelFactory& factory);

}  // namespace penstock
