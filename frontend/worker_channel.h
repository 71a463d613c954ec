// The channel of a front end to a worker. Each try to connect has one of its own, and a connection
// of its own: nothing of one that failed, its backoff least of all, may reach the next.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "worker/transport/grpc_credentials.h"

namespace penstock {

std::shared_ptr<grpc::Channel> MakeWorkerChannel(const std::string& address,
                                                 const ChannelFactory& factory);

}  // namespace penstock
