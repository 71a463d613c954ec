#include "frontend/generate_codec.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/empty.pb.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/unknown_field_set.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>

#include <climits>
#include <string>
#include <vector>

#include "core/base/check.h"
#include "frontend/prompt_validator.h"

namespace penstock {
namespace {

constexpr int kSliceBytes = 1 << 20;

using google::protobuf::Descriptor;
using google::protobuf::Empty;
using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// The first text of a message that is not UTF-8. The fields were read as those of a message
// without any, so that nothing was looked at that is in them. The types of penstock.v1 hold no
// message of their own type, so this goes no deeper than they do.
absl::Status FindBrokenText(const Descriptor& type, const UnknownFieldSet& fields,
                            const std::string& path) {
  for (int i = 0; i < fields.field_count(); ++i) {
    const UnknownField& field = fields.field(i);
    const FieldDescriptor* const known = type.FindFieldByNumber(field.number());
    if (known == nullptr || field.type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
    if (known->type() == FieldDescriptor::TYPE_STRING) {
      PENSTOCK_RETURN_IF_ERROR(CheckUtf8(path + known->name(), field.length_delimited()));
    } else if (known->type() == FieldDescriptor::TYPE_MESSAGE) {
      UnknownFieldSet inner;
      if (!inner.ParseFromString(field.length_delimited())) continue;
      PENSTOCK_RETURN_IF_ERROR(
          FindBrokenText(*known->message_type(), inner, path + known->name() + "."));
    }
  }
  return absl::OkStatus();
}

// Takes the fields of a message, and of those in it, off the budget; false once it is used up.
// What is no message is left to the parser.
bool WithinBudget(const Descriptor& type, CodedInputStream& input, int64_t* budget) {
  while (const uint32_t tag = input.ReadTag()) {
    if (--*budget < 0) return false;
    const FieldDescriptor* const known =
        type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    uint32_t length = 0;
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED ||
        known == nullptr || known->type() != FieldDescriptor::TYPE_MESSAGE) {
      if (!WireFormatLite::SkipField(&input, tag)) return true;
    } else {
      if (!input.ReadVarint32(&length) || length > INT_MAX) return true;
      const CodedInputStream::Limit outer = input.PushLimit(static_cast<int>(length));
      if (!WithinBudget(*known->message_type(), input, budget)) return false;
      if (input.BytesUntilLimit() != 0) return true;
      input.PopLimit(outer);
    }
  }
  return true;
}

absl::Status ExplainFailure(const grpc::ByteBuffer& bytes, const Descriptor& type) {
  grpc::ByteBuffer copy = bytes;
  grpc::ProtoBufferReader reader(&copy);
  Empty any;
  if (any.ParseFromZeroCopyStream(&reader)) {
    PENSTOCK_RETURN_IF_ERROR(FindBrokenText(type, Empty::GetReflection()->GetUnknownFields(any),
                                            "the request's field "));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the request is not a ", type.full_name(), " message"));
}

void EncodeLogprob(const TokenLogprob& from, v1::TokenLogprob* to) {
  to->set_id(from.token);
  to->set_logprob(from.logprob);
}

std::vector<ChatMessage> DecodeChat(const v1::Chat& message) {
  std::vector<ChatMessage> chat;
  chat.reserve(static_cast<size_t>(message.messages_size()));
  for (const v1::ChatMessage& one : message.messages()) {
    chat.push_back({one.role(), one.content()});
  }
  return chat;
}

ClientSampling DecodeSampling(const v1::SamplingParams& message) {
  ClientSampling sampling;
  if (message.has_max_tokens()) sampling.max_tokens = message.max_tokens();
  if (message.has_temperature()) sampling.temperature = message.temperature();
  if (message.has_top_k()) sampling.top_k = message.top_k();
  if (message.has_top_p()) sampling.top_p = message.top_p();
  if (message.has_min_p()) sampling.min_p = message.min_p();
  if (message.has_repetition_penalty()) sampling.repetition_penalty = message.repetition_penalty();
  if (message.has_presence_penalty()) sampling.presence_penalty = message.presence_penalty();
  if (message.has_frequency_penalty()) sampling.frequency_penalty = message.frequency_penalty();
  for (const auto& [token, bias] : message.logit_bias()) {
    sampling.logit_bias.push_back({token, bias});
  }
  sampling.stop.assign(message.stop().begin(), message.stop().end());
  sampling.stop_ids.assign(message.stop_ids().begin(), message.stop_ids().end());
  sampling.include_stop = message.include_stop();
  if (message.has_min_tokens()) sampling.min_tokens = message.min_tokens();
  sampling.ignore_eos = message.ignore_eos();
  if (message.has_n()) sampling.n = message.n();
  if (message.has_seed()) sampling.seed = message.seed();
  if (message.has_logprobs()) sampling.logprobs = message.logprobs();
  if (message.has_prompt_logprobs()) sampling.prompt_logprobs = message.prompt_logprobs();
  sampling.bad_words.assign(message.bad_words().begin(), message.bad_words().end());
  return sampling;
}

}  // namespace

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  // Protobuf would print a line for each text that is not UTF-8: what a client can cause is no
  // event of this program's.
  const google::protobuf::LogSilencer silencer;
  grpc::ByteBuffer copy = bytes;  // shares the slices
  {
    grpc::ProtoBufferReader first(&copy);
    if (first.status().ok()) {
      CodedInputStream input(&first);
      int64_t budget = kMaxFields;
      if (!WithinBudget(*message->GetDescriptor(), input, &budget)) {
        return absl::InvalidArgumentError(
            absl::StrCat("the request has more than ", kMaxFields, " fields: send fewer"));
      }
    }
  }
  grpc::ProtoBufferReader reader(&copy);
  if (!reader.status().ok() || !message->ParseFromZeroCopyStream(&reader)) {
    return ExplainFailure(bytes, *message->GetDescriptor());
  }
  return absl::OkStatus();
}

void SerializeMessage(const google::protobuf::Message& message, grpc::ByteBuffer* bytes) {
  bytes->Clear();
  const auto size = static_cast<int>(message.ByteSizeLong());
  grpc::ProtoBufferWriter writer(bytes, kSliceBytes, size);
  PENSTOCK_CHECK(message.SerializeToZeroCopyStream(&writer));
}

ClientRequest DecodeGenerateRequest(const v1::GenerateRequest& message) {
  ClientRequest request;
  request.model = message.model();
  ClientPrompt& prompt = request.prompt;
  if (message.has_text()) prompt.text = message.text();
  if (message.has_token_ids()) {
    prompt.token_ids.emplace(message.token_ids().ids().begin(), message.token_ids().ids().end());
  }
  if (message.has_chat()) prompt.chat = DecodeChat(message.chat());
  prompt.parse_special = message.parse_special();
  request.sampling = DecodeSampling(message.sampling());
  request.priority = message.priority();
  request.tenant = message.tenant();
  return request;
}

ClientPrompt DecodePrompt(const v1::TokenizeRequest& message) {
  ClientPrompt prompt;
  if (message.has_text()) prompt.text = message.text();
  if (message.has_chat()) prompt.chat = DecodeChat(message.chat());
  prompt.parse_special = message.parse_special();
  return prompt;
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

void EncodeTokens(std::span<const GeneratedToken> tokens, bool tell_logprobs, bool tell_top,
                  v1::GenerateResponse* response) {
  for (const GeneratedToken& token : tokens) {
    response->add_ids(token.id);
    if (tell_logprobs) response->add_logprobs(token.logprob);
    if (!tell_top) continue;
    v1::TopLogprobs* const top = response->add_top_logprobs();
    for (const TokenLogprob& one : token.top) EncodeLogprob(one, top->add_tokens());
  }
}

void EncodePromptLogprobs(std::span<const PromptLogprob> logprobs, v1::GenerateResponse* response) {
  for (const PromptLogprob& logprob : logprobs) {
    v1::PromptLogprob* const message = response->add_prompt_logprobs();
    EncodeLogprob(logprob.token, message->mutable_token());
    for (const TokenLogprob& one : logprob.top) EncodeLogprob(one, message->add_top());
  }
}

}  // namespace penstock
