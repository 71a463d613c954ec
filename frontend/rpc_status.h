// Between absl::Status and grpc::Status: the codes are the same numbers. Pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include "core/base/status.h"

namespace penstock {

// RESOURCE_EXHAUSTED carries a google.rpc.RetryInfo in its details.
grpc::Status ToRpcStatus(const absl::Status& status);

absl::Status FromRpcStatus(const grpc::Status& status);

}  // namespace penstock
