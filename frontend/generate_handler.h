// The Generate call: one reactor a call, between gRPC and the engine. Requests arrive as raw bytes
// so that what is no message, or holds broken UTF-8, is answered with a sentence.
//
// The engine thread only appends to the call's buffer; a delivery thread turns tokens into text and
// starts the writes. One write is in flight; tokens that come meanwhile are merged into the next
// message, so that a slow client costs its answer's length and holds nobody up. A client that
// leaves aborts its request in the engine at once.
#pragma once

#include <grpcpp/grpcpp.h>

#include "core/base/task_thread.h"
#include "frontend/service_state.h"

namespace penstock {

// Takes the call. The reactor frees itself. REQUIRES: `state` and `delivery` outlive the call.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerate(const ServiceState& state,
                                                          TaskThread& delivery,
                                                          grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer& request);

}  // namespace penstock
