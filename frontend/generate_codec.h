// Between the messages of penstock.v1.Generate and the validator's and engine's plain structs. Pure
// functions, thread-safe.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include "core/base/status.h"
#include "frontend/engine_types.h"
#include "frontend/request_validator.h"
#include "penstock/v1/inference.pb.h"

namespace penstock {

// Errors: INVALID_ARGUMENT for bytes that are no GenerateRequest, naming a text that is not UTF-8.
absl::StatusOr<v1::GenerateRequest> ParseGenerateRequest(const grpc::ByteBuffer& bytes);

ClientRequest DecodeGenerateRequest(const v1::GenerateRequest& message);

v1::FinishReason EncodeFinishReason(FinishReason reason);

}  // namespace penstock
