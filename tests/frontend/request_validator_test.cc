#include "frontend/request_validator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>

#include "tests/support/small_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

class RequestValidatorTest : public testing::Test {
 protected:
  RequestValidatorTest() : tokenizer_(MakeTokenizer(SmallVocabulary()).value()) {
    limits_.model = "Small";
    limits_.vocab_size = tokenizer_->vocab_size();
    limits_.context_length = 32;
    limits_.default_max_tokens = 8;
  }
  absl::StatusOr<GenerationRequest> Validate(const ClientRequest& request) {
    return ValidateRequest(request, limits_, *tokenizer_, /*fresh_seed=*/77);
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  RequestLimits limits_;
};

TEST_F(RequestValidatorTest, FillsInTheDefaults) {
  ClientRequest request;
  request.text.emplace("hello");
  const absl::StatusOr<GenerationRequest> checked = Validate(request);
  ASSERT_TRUE(IsOk(checked));
  EXPECT_EQ(checked->prompt, tokenizer_->Encode("hello", false).value());
  EXPECT_EQ(checked->max_tokens, 8);
  EXPECT_EQ(checked->sampling.temperature, 1.0f);
  EXPECT_EQ(checked->sampling.top_k, 0);
  EXPECT_EQ(checked->sampling.top_p, 1.0f);
  EXPECT_EQ(checked->sampling.seed, 77u);
  EXPECT_EQ(checked->deadline, absl::InfiniteFuture());
}

TEST_F(RequestValidatorTest, KeepsWhatIsAskedFor) {
  ClientRequest request;
  request.model = "Small";
  request.token_ids = {{0, 5, static_cast<int32_t>(limits_.vocab_size) - 1}};
  request.max_tokens = 3;
  request.temperature = 0.7f;
  request.top_k = 1 << 30;
  request.top_p = 0.5f;
  request.seed = 0;
  request.logprobs = 0;
  const absl::StatusOr<GenerationRequest> checked = Validate(request);
  ASSERT_TRUE(IsOk(checked));
  EXPECT_EQ(checked->prompt, *request.token_ids);
  EXPECT_EQ(checked->max_tokens, 3);
  EXPECT_EQ(checked->sampling.temperature, 0.7f);
  EXPECT_EQ(checked->sampling.top_k, 1 << 30);
  EXPECT_EQ(checked->sampling.top_p, 0.5f);
  EXPECT_EQ(checked->sampling.seed, 0u);
}

TEST_F(RequestValidatorTest, CutsMaxTokensToTheContext) {
  ClientRequest request;
  request.token_ids.emplace(31, 5);
  request.max_tokens = INT64_MAX;
  ASSERT_TRUE(IsOk(Validate(request)));
  EXPECT_EQ(Validate(request)->max_tokens, 1);
}

TEST_F(RequestValidatorTest, AlmostZeroIsGreedy) {
  ClientRequest request;
  request.text.emplace("a");
  for (const auto& [asked, expected] : std::initializer_list<std::pair<float, float>>{
           {0.0f, 0.0f}, {9e-6f, 0.0f}, {-0.0f, 0.0f}, {1e-5f, 1e-5f}, {100.0f, 100.0f}}) {
    request.temperature = asked;
    ASSERT_TRUE(IsOk(Validate(request))) << asked;
    EXPECT_EQ(Validate(request)->sampling.temperature, expected) << asked;
  }
}

TEST_F(RequestValidatorTest, ParsesSpecialTokensOnlyIfAsked) {
  ClientRequest request;
  request.text.emplace("<|end|>");
  ASSERT_TRUE(IsOk(Validate(request)));
  EXPECT_GT(Validate(request)->prompt.size(), 1u);
  request.parse_special = true;
  ASSERT_TRUE(IsOk(Validate(request)));
  EXPECT_EQ(Validate(request)->prompt, (std::vector<int32_t>{0}));
}

TEST_F(RequestValidatorTest, RefusesWithCodeAndReason) {
  struct Case {
    std::function<void(ClientRequest*)> spoil;
    absl::StatusCode code;
    std::initializer_list<std::string_view> words;
  };
  using Request = ClientRequest;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const auto vocab = static_cast<int32_t>(limits_.vocab_size);
  const std::string last_id = absl::StrCat(vocab - 1);
  const Case cases[] = {
      {[](Request* r) { r->text.reset(); }, kInvalid, {"no prompt"}},
      {[](Request* r) { r->token_ids = {{1}}; }, kInvalid, {"a text and token ids"}},
      {[](Request* r) { r->text.emplace(""); }, kInvalid, {"empty"}},
      {[](Request* r) { r->text.emplace("\x04"); }, kInvalid, {"no token"}},
      {[](Request* r) { r->text.emplace("ab\xff"); }, kInvalid, {"UTF-8", "byte 2", "0xff"}},
      {[](Request* r) { r->text.emplace("\xed\xa0\x80"); }, kInvalid, {"UTF-8", "byte 0"}},
      {[](Request* r) { r->text.reset(), r->token_ids.emplace(); }, kInvalid, {"empty"}},
      {[](Request* r) {
         r->text.reset(), r->token_ids = {{2, -1}};
       },
       kInvalid,
       {"token id -1", "position 1", last_id}},
      {[=](Request* r) { r->text.reset(), r->token_ids = {{vocab}}; }, kInvalid, {last_id}},
      {[](Request* r) { r->text.reset(), r->token_ids.emplace(32, 5); },
       absl::StatusCode::kOutOfRange,
       {"prompt has 32", "context 32", "at most 31"}},
      {[](Request* r) { r->max_tokens = 0; }, kInvalid, {"max_tokens is 0"}},
      {[](Request* r) { r->max_tokens = INT64_MIN; }, kInvalid, {"max_tokens"}},
      {[](Request* r) { r->temperature = -0.1f; }, kInvalid, {"temperature is -0.1"}},
      {[](Request* r) { r->temperature = NAN; }, kInvalid, {"temperature is nan"}},
      {[](Request* r) { r->temperature = INFINITY; }, kInvalid, {"temperature is inf"}},
      {[](Request* r) { r->temperature = 100.5f; }, kInvalid, {"temperature is 100.5"}},
      {[](Request* r) { r->top_k = -1; }, kInvalid, {"top_k is -1"}},
      {[](Request* r) { r->top_p = 0.0f; }, kInvalid, {"top_p is 0"}},
      {[](Request* r) { r->top_p = 1.01f; }, kInvalid, {"top_p is 1.01"}},
      {[](Request* r) { r->top_p = NAN; }, kInvalid, {"top_p is nan"}},
      {[](Request* r) { r->logprobs = -1; }, kInvalid, {"logprobs is -1"}},
      {[](Request* r) { r->logprobs = 5; }, absl::StatusCode::kUnimplemented, {"logprobs is 5"}},
      {[](Request* r) { r->model = "gpt\xff"; },
       absl::StatusCode::kNotFound,
       {"gpt\\xff", "ask for \"Small\""}},
  };
  for (const Case& one : cases) {
    ClientRequest request;
    request.text.emplace("hello");
    ASSERT_TRUE(IsOk(Validate(request)));
    one.spoil(&request);
    EXPECT_TRUE(Fails(Validate(request), one.code, one.words));
  }
}

}  // namespace
}  // namespace penstock
