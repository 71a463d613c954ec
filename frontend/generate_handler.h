// The Generate call: one reactor a call, between gRPC and the engine. Requests arrive as raw bytes
// so that what is no message, or holds broken UTF-8, is answered with a sentence.
//
// A call has one sequence in the engine for each of its choices. The engine thread only appends to
// the call's buffers; a delivery thread turns tokens into text and starts the writes. One write is
// in flight; tokens that come meanwhile are merged into the choice's next message. No message
// passes kLogprobsPerMessage. A client that leaves aborts its request in the engine at once; so
// does a stop text its choice. One that reads too slowly for its answers is cut off
// (slow_reader.h): it holds nobody up and costs no more memory than that.
//
// How a call ends: OK if each choice came to its end. A choice whose numbers failed (INTERNAL) ends
// with ERROR and leaves the others alone; if none came to its end, or one failed in another way
// (time limit, shutdown), that is the call's status.
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
