#include "frontend/generate_codec.h"

#include <google/protobuf/empty.pb.h>
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <string_view>

namespace penstock {
namespace {

using google::protobuf::Empty;
using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

// Why `bytes` do not parse. Read as a message without fields, all of theirs are unknown, and those
// are kept without a look at what is in them.
absl::Status ExplainFailure(const grpc::ByteBuffer& bytes) {
  grpc::ByteBuffer copy = bytes;
  grpc::ProtoBufferReader reader(&copy);
  Empty any;
  if (any.ParseFromZeroCopyStream(&reader)) {
    const UnknownFieldSet& fields = Empty::GetReflection()->GetUnknownFields(any);
    for (int i = 0; i < fields.field_count(); ++i) {
      const UnknownField& field = fields.field(i);
      if (field.type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
      if (field.number() == v1::GenerateRequest::kTextFieldNumber) {
        PENSTOCK_RETURN_IF_ERROR(CheckUtf8("the prompt", field.length_delimited()));
      } else if (field.number() == v1::GenerateRequest::kModelFieldNumber) {
        PENSTOCK_RETURN_IF_ERROR(CheckUtf8("the model's name", field.length_delimited()));
      }
    }
  }
  return absl::InvalidArgumentError("the request is not a penstock.v1.GenerateRequest message");
}

}  // namespace

absl::StatusOr<v1::GenerateRequest> ParseGenerateRequest(const grpc::ByteBuffer& bytes) {
  // Protobuf would print a line for each text that is not UTF-8: what a client can cause is no
  // event of this program's.
  const google::protobuf::LogSilencer silencer;
  grpc::ByteBuffer copy = bytes;  // shares the slices
  grpc::ProtoBufferReader reader(&copy);
  v1::GenerateRequest request;
  if (!reader.status().ok() || !request.ParseFromZeroCopyStream(&reader)) {
    return ExplainFailure(bytes);
  }
  return request;
}

ClientRequest DecodeGenerateRequest(const v1::GenerateRequest& message) {
  ClientRequest request;
  request.model = message.model();
  if (message.has_text()) request.text = message.text();
  if (message.has_token_ids()) {
    request.token_ids.emplace(message.token_ids().ids().begin(), message.token_ids().ids().end());
  }
  request.parse_special = message.parse_special();
  const v1::SamplingParams& sampling = message.sampling();
  if (sampling.has_max_tokens()) request.max_tokens = sampling.max_tokens();
  if (sampling.has_temperature()) request.temperature = sampling.temperature();
  if (sampling.has_top_k()) request.top_k = sampling.top_k();
  if (sampling.has_top_p()) request.top_p = sampling.top_p();
  if (sampling.has_seed()) request.seed = sampling.seed();
  if (sampling.has_logprobs()) request.logprobs = sampling.logprobs();
  return request;
}

v1::FinishReason EncodeFinishReason(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kAbort:
      return v1::FINISH_REASON_ABORT;
    case FinishReason::kError:
      return v1::FINISH_REASON_ERROR;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

}  // namespace penstock
