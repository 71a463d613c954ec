#include "frontend/generate_codec.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

grpc::ByteBuffer Bytes(const std::string& bytes, size_t slice_bytes = SIZE_MAX) {
  // Whatever begins to use gRPC makes its library ready; a buffer does not.
  static const auto library = grpc::InsecureChannelCredentials();
  std::vector<grpc::Slice> slices;
  for (size_t i = 0; i < bytes.size(); i += std::min(slice_bytes, bytes.size())) {
    slices.emplace_back(bytes.substr(i, slice_bytes));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

TEST(GenerateCodec, EveryFieldArrives) {
  v1::GenerateRequest message;
  message.set_model("m");
  message.mutable_chat()->add_messages()->set_role("user");
  message.mutable_chat()->mutable_messages(0)->set_content("hi");
  message.set_parse_special(true);
  message.set_priority(-5);
  message.set_tenant("t");
  v1::SamplingParams* sampling = message.mutable_sampling();
  sampling->set_max_tokens(11);
  sampling->set_temperature(0.5f);
  sampling->set_top_k(12);
  sampling->set_top_p(0.25f);
  sampling->set_seed(13);
  sampling->set_logprobs(14);
  sampling->set_min_p(0.125f);
  sampling->set_repetition_penalty(1.5f);
  sampling->set_presence_penalty(-1.0f);
  sampling->set_frequency_penalty(-0.5f);
  (*sampling->mutable_logit_bias())[15] = 2.0f;
  sampling->add_stop("s");
  sampling->add_stop_ids(16);
  sampling->set_include_stop(true);
  sampling->set_min_tokens(17);
  sampling->set_ignore_eos(true);
  sampling->set_n(18);
  sampling->set_prompt_logprobs(19);
  sampling->add_bad_words("b");
  // Over the wire, in pieces.
  v1::GenerateRequest parsed;
  ASSERT_TRUE(IsOk(ParseMessage(Bytes(message.SerializeAsString(), 3), &parsed)));
  const ClientRequest request = DecodeGenerateRequest(parsed);
  EXPECT_EQ(request.model, "m");
  EXPECT_FALSE(request.prompt.text.has_value() || request.prompt.token_ids.has_value());
  ASSERT_EQ(request.prompt.chat->size(), 1u);
  EXPECT_EQ((*request.prompt.chat)[0].role, "user");
  EXPECT_EQ((*request.prompt.chat)[0].content, "hi");
  EXPECT_TRUE(request.prompt.parse_special);
  EXPECT_EQ(request.priority, -5);
  EXPECT_EQ(request.tenant, "t");
  const ClientSampling& got = request.sampling;
  EXPECT_EQ(got.max_tokens, 11);
  EXPECT_EQ(got.temperature, 0.5f);
  EXPECT_EQ(got.top_k, 12);
  EXPECT_EQ(got.top_p, 0.25f);
  EXPECT_EQ(got.seed, 13u);
  EXPECT_EQ(got.logprobs, 14);
  EXPECT_EQ(got.min_p, 0.125f);
  EXPECT_EQ(got.repetition_penalty, 1.5f);
  EXPECT_EQ(got.presence_penalty, -1.0f);
  EXPECT_EQ(got.frequency_penalty, -0.5f);
  ASSERT_EQ(got.logit_bias.size(), 1u);
  EXPECT_EQ(got.logit_bias[0].token, 15);
  EXPECT_EQ(got.logit_bias[0].bias, 2.0f);
  EXPECT_EQ(got.stop, std::vector<std::string>{"s"});
  EXPECT_EQ(got.stop_ids, std::vector<int32_t>{16});
  EXPECT_TRUE(got.include_stop);
  EXPECT_EQ(got.min_tokens, 17);
  EXPECT_TRUE(got.ignore_eos);
  EXPECT_EQ(got.n, 18);
  EXPECT_EQ(got.prompt_logprobs, 19);
  EXPECT_EQ(got.bad_words, std::vector<std::string>{"b"});
}

TEST(GenerateCodec, AbsentIsNotZero) {
  const ClientRequest request = DecodeGenerateRequest(v1::GenerateRequest());
  const ClientSampling& got = request.sampling;
  EXPECT_FALSE(request.prompt.chat.has_value() || request.prompt.text.has_value());
  EXPECT_FALSE(got.max_tokens || got.temperature || got.top_k || got.top_p || got.min_p ||
               got.seed);
  EXPECT_FALSE(got.repetition_penalty || got.presence_penalty || got.frequency_penalty);
  EXPECT_FALSE(got.min_tokens || got.n || got.logprobs || got.prompt_logprobs);
}

// Two bytes each in the message, but fifty in memory.
TEST(GenerateCodec, TooManyFieldsAreRefusedBeforeTheyAreRead) {
  v1::GenerateRequest message;
  const auto repeated = [&](int64_t count) {
    std::string sampling;
    for (int64_t i = 0; i < count; ++i) sampling += std::string("\x62\x00", 2);  // stop: ""
    std::string bytes = "\x2a";
    uint64_t length = sampling.size();
    for (; length >= 0x80; length >>= 7) bytes += static_cast<char>(length | 0x80);
    bytes += static_cast<char>(length);
    return Bytes(bytes + sampling, 4096);
  };
  EXPECT_TRUE(IsOk(ParseMessage(repeated(kMaxFields - 1), &message)));
  EXPECT_EQ(message.sampling().stop_size(), kMaxFields - 1);
  message.Clear();
  EXPECT_TRUE(Fails(ParseMessage(repeated(kMaxFields), &message), kInvalid, {"262144 fields"}));
  EXPECT_EQ(message.sampling().stop_size(), 0);
  // Fields that nobody knows count too.
  std::string unknown;
  for (int64_t i = 0; i <= kMaxFields; ++i) unknown += "\xf8\x07\x01";
  EXPECT_TRUE(Fails(ParseMessage(Bytes(unknown), &message), kInvalid, {"262144 fields"}));
}

TEST(GenerateCodec, DeepNestingIsNoMessage) {
  // Groups in groups, and messages in messages where none belong.
  v1::GenerateRequest message;
  EXPECT_TRUE(Fails(ParseMessage(Bytes(std::string(100000, '\x0b')), &message), kInvalid,
                    {"not a penstock.v1.GenerateRequest"}));
  std::string nested;
  for (int i = 0; i < 1000; ++i) {
    std::string outer = "\x2a";
    for (uint64_t length = nested.size();; length >>= 7) {
      if (length < 0x80) {
        outer += static_cast<char>(length);
        break;
      }
      outer += static_cast<char>(length | 0x80);
    }
    nested = outer + nested;
  }
  ParseMessage(Bytes(nested), &message).IgnoreError();
}

}  // namespace
}  // namespace penstock
