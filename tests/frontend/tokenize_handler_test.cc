#include "frontend/tokenize_handler.h"

#include <gtest/gtest.h>

#include "tests/support/inference_fixture.h"
#include "tests/support/raw_call.h"

namespace penstock {
namespace {

class TokenizeHandlerTest : public InferenceFixture {
 protected:
  grpc::Status Ids(const v1::TokenizeRequest& request, std::vector<int32_t>* ids) {
    grpc::ClientContext context;
    v1::TokenizeResponse response;
    const grpc::Status status = stub_->Tokenize(&context, request, &response);
    ids->assign(response.ids().begin(), response.ids().end());
    return status;
  }
  grpc::Status Text(const std::vector<int32_t>& ids, std::string* text) {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.mutable_ids()->Add(ids.begin(), ids.end());
    v1::DetokenizeResponse response;
    const grpc::Status status = stub_->Detokenize(&context, request, &response);
    *text = response.text();
    return status;
  }
};

TEST_F(TokenizeHandlerTest, GivesTheIdsThatGenerateFeeds) {
  StartAll();
  v1::TokenizeRequest request;
  request.set_text("hello hello, <|end|>");
  for (const bool special : {false, true}) {
    request.set_parse_special(special);
    std::vector<int32_t> ids;
    ASSERT_TRUE(Ids(request, &ids).ok());
    EXPECT_EQ(ids, runtime_->tokenizer().Encode(request.text(), special).value());
    v1::GenerateRequest generate;
    generate.set_text(request.text());
    generate.set_parse_special(special);
    Responses responses;
    ASSERT_TRUE(Generate(generate, &responses).ok());
    EXPECT_TRUE(std::equal(ids.begin(), ids.end(), responses[0].prompt_ids().begin()));
    std::string text;
    ASSERT_TRUE(Text(ids, &text).ok());
    EXPECT_EQ(text, special ? "hello hello, " : request.text());
  }
}

TEST_F(TokenizeHandlerTest, LongerThanTheContextIsNoError) {
  StartAll();
  v1::TokenizeRequest request;
  request.set_text(std::string(1000, 'x'));
  std::vector<int32_t> ids;
  ASSERT_TRUE(Ids(request, &ids).ok());
  EXPECT_EQ(ids.size(), 1000u);
}

TEST_F(TokenizeHandlerTest, RefusesWithCodeAndReason) {
  options_.limits.max_prompt_bytes = 100;
  StartAll();
  std::vector<int32_t> ids;
  v1::TokenizeRequest request;
  EXPECT_EQ(Ids(request, &ids).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_text("");
  EXPECT_EQ(Ids(request, &ids).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_text(std::string(101, 'x'));
  EXPECT_EQ(Ids(request, &ids).error_code(), grpc::StatusCode::OUT_OF_RANGE);
  request.set_text("x");
  request.set_model("another");
  EXPECT_EQ(Ids(request, &ids).error_code(), grpc::StatusCode::NOT_FOUND);

  std::string text;
  EXPECT_TRUE(Text({}, &text).ok());
  EXPECT_EQ(Text({5, -1}, &text).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const grpc::Status status = Text({5, model_.vocab_size}, &text);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(status.error_message().find("position 1"), std::string::npos);
  EXPECT_EQ(Text(std::vector<int32_t>(101, 40), &text).error_code(),
            grpc::StatusCode::OUT_OF_RANGE);
}

TEST_F(TokenizeHandlerTest, BytesThatAreNoMessageGetASentence) {
  StartAll();
  struct Case {
    std::string method, bytes, words;
  };
  const Case cases[] = {
      {"Tokenize",
       "\x12\x03"
       "ab\xff",
       "field text is not valid UTF-8: byte 2 (0xff)"},
      {"Tokenize", "\x12\x7f", "not a penstock.v1.TokenizeRequest"},
      {"Detokenize", "\x0a\x01\xff", "field model is not valid UTF-8"},
      {"Detokenize", "\x12\x03\x01", "not a penstock.v1.DetokenizeRequest"},
      {"GetModelInfo", "\x0c", "not a penstock.v1.GetModelInfoRequest"},
  };
  for (const Case& one : cases) {
    const grpc::Status status =
        CallRaw(channel_, "/penstock.v1.Inference/" + one.method, one.bytes);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << one.method;
    EXPECT_NE(status.error_message().find(one.words), std::string::npos) << status.error_message();
  }
}

TEST_F(TokenizeHandlerTest, UnavailableWhileLoading) {
  StartServer();
  v1::TokenizeRequest request;
  request.set_text("x");
  std::vector<int32_t> ids;
  EXPECT_EQ(Ids(request, &ids).error_code(), grpc::StatusCode::UNAVAILABLE);
  std::string text;
  EXPECT_EQ(Text({5}, &text).error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace penstock
