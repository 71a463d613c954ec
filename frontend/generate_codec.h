// Between the messages of penstock.v1 and the validator's and engine's plain structs. Pure
// functions, thread-safe.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <span>

#include "core/base/status.h"
#include "frontend/client_request.h"
#include "frontend/engine_types.h"
#include "penstock/v1/inference.pb.h"

namespace penstock {

// Reads a request's bytes, which gRPC passes on as they came: its own parser would answer INTERNAL
// to what a client got wrong.
// Errors: INVALID_ARGUMENT for bytes that are no such message, naming a text that is not UTF-8, and
// for more fields than kMaxFields: each takes some 50 bytes of memory, but two of a message.
inline constexpr int64_t kMaxFields = 1 << 18;
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);

// Writes an answer's bytes.
void SerializeMessage(const google::protobuf::Message& message, grpc::ByteBuffer* bytes);

ClientRequest DecodeGenerateRequest(const v1::GenerateRequest& message);
ClientPrompt DecodePrompt(const v1::TokenizeRequest& message);

v1::FinishReason EncodeFinishReason(FinishReason reason);

// Appends the tokens' ids and, if they are to be told, their log-probabilities, with those of the
// likeliest tokens if the request asked for any.
void EncodeTokens(std::span<const GeneratedToken> tokens, bool tell_logprobs, bool tell_top,
                  v1::GenerateResponse* response);

void EncodePromptLogprobs(std::span<const PromptLogprob> logprobs, v1::GenerateResponse* response);

}  // namespace penstock
