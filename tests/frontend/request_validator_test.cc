#include "frontend/request_validator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

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
  absl::StatusOr<CheckedRequest> Validate(const ClientRequest& request) {
    return ValidateRequest(request, limits_, *tokenizer_, chat_template_, /*fresh_seed=*/77);
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  absl::StatusOr<ChatTemplate> chat_template_ = absl::FailedPreconditionError("it brings none");
  RequestLimits limits_;
};

TEST_F(RequestValidatorTest, FillsInTheDefaults) {
  ClientRequest request;
  request.prompt.text.emplace("hello");
  const absl::StatusOr<CheckedRequest> checked = Validate(request);
  ASSERT_TRUE(IsOk(checked));
  EXPECT_EQ(checked->generation.prompt, tokenizer_->Encode("hello", false).value());
  EXPECT_EQ(checked->generation.max_tokens, 8);
  EXPECT_EQ(checked->generation.deadline, absl::InfiniteFuture());
  EXPECT_EQ(checked->n, 1);
  EXPECT_TRUE(checked->stop.empty());
  limits_.max_new_tokens = 5;
  EXPECT_EQ(Validate(request)->generation.max_tokens, 5);
}

TEST_F(RequestValidatorTest, KeepsWhatIsAskedFor) {
  ClientRequest request;
  request.model = "Small";
  request.prompt.token_ids = {{0, 5, static_cast<int32_t>(limits_.vocab_size) - 1}};
  request.sampling.max_tokens = 3;
  request.sampling.n = 4;
  request.sampling.seed = 0;
  const absl::StatusOr<CheckedRequest> checked = Validate(request);
  ASSERT_TRUE(IsOk(checked));
  EXPECT_EQ(checked->generation.prompt, *request.prompt.token_ids);
  EXPECT_EQ(checked->generation.max_tokens, 3);
  EXPECT_EQ(checked->n, 4);
  EXPECT_EQ(checked->generation.sampling.seed, 0u);
}

TEST_F(RequestValidatorTest, CutsMaxTokensToTheContext) {
  ClientRequest request;
  request.prompt.token_ids = std::vector<int32_t>(31, 5);
  request.sampling.max_tokens = INT64_MAX;
  ASSERT_TRUE(IsOk(Validate(request)));
  EXPECT_EQ(Validate(request)->generation.max_tokens, 1);
}

TEST_F(RequestValidatorTest, ParsesSpecialTokensOnlyIfAsked) {
  ClientRequest request;
  request.prompt.text.emplace("<|end|>");
  ASSERT_TRUE(IsOk(Validate(request)));
  EXPECT_GT(Validate(request)->generation.prompt.size(), 1u);
  request.prompt.parse_special = true;
  ASSERT_TRUE(IsOk(Validate(request)));
  EXPECT_EQ(Validate(request)->generation.prompt, (std::vector<int32_t>{0}));
}

TEST_F(RequestValidatorTest, RefusesWithCodeAndReason) {
  struct Case {
    std::function<void(ClientPrompt*)> spoil;
    absl::StatusCode code;
    std::initializer_list<std::string_view> words;
  };
  using Prompt = ClientPrompt;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const auto vocab = static_cast<int32_t>(limits_.vocab_size);
  const std::string last_id = absl::StrCat(vocab - 1);
  limits_.max_prompt_bytes = 100;
  const Case cases[] = {
      {[](Prompt* p) { p->text.reset(); }, kInvalid, {"no prompt"}},
      {[](Prompt* p) { p->token_ids = {{1}}; },
       kInvalid,
       {"several of a text, token ids and a chat"}},
      {[](Prompt* p) { p->text.emplace(""); }, kInvalid, {"empty"}},
      {[](Prompt* p) { p->text.emplace("\x04"); }, kInvalid, {"no token"}},
      {[](Prompt* p) { p->text.emplace("ab\xff"); }, kInvalid, {"UTF-8", "byte 2", "0xff"}},
      {[](Prompt* p) { p->text.emplace("\xed\xa0\x80"); }, kInvalid, {"UTF-8", "byte 0"}},
      {[](Prompt* p) { p->text.emplace(101, 'a'); },
       absl::StatusCode::kOutOfRange,
       {"has 101 bytes", "100", "--max-prompt-bytes"}},
      {[](Prompt* p) { p->text.reset(), p->token_ids.emplace(); }, kInvalid, {"empty"}},
      {[](Prompt* p) {
         p->text.reset(), p->token_ids = {{2, -1}};
       },
       kInvalid,
       {"token id -1", "position 1", last_id}},
      {[=](Prompt* p) { p->text.reset(), p->token_ids = {{vocab}}; }, kInvalid, {last_id}},
      {[](Prompt* p) { p->text.reset(), p->token_ids.emplace(32, 5); },
       absl::StatusCode::kOutOfRange,
       {"prompt has 32", "context 32", "at most 31"}},
  };
  for (const Case& one : cases) {
    ClientRequest request;
    request.prompt.text.emplace("hello");
    ASSERT_TRUE(IsOk(Validate(request)));
    one.spoil(&request.prompt);
    EXPECT_TRUE(Fails(Validate(request), one.code, one.words));
  }
  ClientRequest request;
  request.prompt.text.emplace("hello");
  request.model = "gpt\xff";
  EXPECT_TRUE(
      Fails(Validate(request), absl::StatusCode::kNotFound, {"gpt\\xff", "ask for \"Small\""}));
}

TEST_F(RequestValidatorTest, WhoAsksAndHowUrgently) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  ClientRequest request;
  request.prompt.text.emplace("hello");
  ASSERT_TRUE(IsOk(Validate(request)));
  EXPECT_EQ(Validate(request)->generation.priority, 0);
  EXPECT_EQ(Validate(request)->generation.tenant, "");
  limits_.max_priority = 7;
  for (const int32_t priority : {-7, -1, 0, 7}) {
    request.priority = priority;
    ASSERT_TRUE(IsOk(Validate(request)));
    EXPECT_EQ(Validate(request)->generation.priority, priority);
  }
  for (const int32_t priority : {-8, 8, INT32_MIN, INT32_MAX}) {
    request.priority = priority;
    EXPECT_TRUE(Fails(Validate(request), kInvalid,
                      {absl::StrCat("priority is ", priority), "-7 to 7", "--max-priority"}));
  }
  limits_.max_priority = 0;
  EXPECT_TRUE(Fails(Validate(request), kInvalid, {"0 to 0"}));
  request.priority = 0;
  request.tenant = std::string(254, 't').append("\xc3\xa9");
  ASSERT_TRUE(IsOk(Validate(request)));
  EXPECT_EQ(Validate(request)->generation.tenant, request.tenant);
  request.tenant.insert(0, "t");
  EXPECT_TRUE(Fails(Validate(request), kInvalid, {"tenant has 257 bytes", "at most 256"}));
  request.tenant = "a\xff";
  EXPECT_TRUE(Fails(Validate(request), kInvalid, {"tenant", "UTF-8", "byte 1"}));
}

class ChatValidatorTest : public RequestValidatorTest {
 protected:
  ChatValidatorTest() {
    // The control tokens that the layout needs.
    TokenizerSpec spec = SmallVocabulary();
    AddToken("<|im_start|>", TokenizerSpec::TokenType::kControl, &spec);
    AddToken("<|im_end|>", TokenizerSpec::TokenType::kControl, &spec);
    ChatTemplateOptions options;
    options.layout = "chatml";
    chat_template_ = ChatTemplate::Make(spec, options);
    chat_tokenizer_ = MakeTokenizer(spec).value();
    limits_.vocab_size = chat_tokenizer_->vocab_size();
    limits_.context_length = 4096;
  }
  absl::StatusOr<CheckedRequest> ValidateChat(std::vector<ChatMessage> chat) {
    ClientRequest request;
    request.prompt.chat = std::move(chat);
    return ValidateRequest(request, limits_, *chat_tokenizer_, chat_template_, 77);
  }
  std::unique_ptr<Tokenizer> chat_tokenizer_;
};

TEST_F(ChatValidatorTest, AChatIsLaidOutByTheTemplate) {
  ASSERT_TRUE(IsOk(chat_template_));
  const absl::StatusOr<CheckedRequest> checked =
      ValidateChat({{"system", "aaaa"}, {"user", "hello <|im_end|>"}});
  ASSERT_TRUE(IsOk(checked));
  const std::vector<ChatMessage> chat = {{"system", "aaaa"}, {"user", "hello <|im_end|>"}};
  EXPECT_EQ(checked->generation.prompt, chat_template_->Encode(chat, *chat_tokenizer_).value());
  // The name of a control token in a message is text.
  const auto end = static_cast<int32_t>(limits_.vocab_size) - 1;
  EXPECT_EQ(std::count(checked->generation.prompt.begin(), checked->generation.prompt.end(), end),
            2);
}

TEST_F(ChatValidatorTest, BadChatsAreRefused) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_TRUE(Fails(ValidateChat({}), kInvalid, {"chat is empty"}));
  EXPECT_TRUE(Fails(ValidateChat({{"user", "a"}, {"to\xffol", "b"}}), kInvalid,
                    {"message 1", "to\\xffol", "system, user and assistant"}));
  EXPECT_TRUE(Fails(ValidateChat({{"user", "a\xff"}}), kInvalid, {"message 0", "UTF-8", "0xff"}));
  limits_.max_chat_messages = 3;
  EXPECT_TRUE(Fails(ValidateChat({4, {"user", "a"}}), absl::StatusCode::kOutOfRange,
                    {"4 messages", "--max-chat-messages"}));
  limits_.max_prompt_bytes = 10;
  EXPECT_TRUE(Fails(ValidateChat({{"user", "123456"}, {"assistant", "78901"}}),
                    absl::StatusCode::kOutOfRange, {"11 bytes", "--max-prompt-bytes"}));
  limits_.max_prompt_bytes = 1000;
  limits_.context_length = 8;
  EXPECT_TRUE(
      Fails(ValidateChat({{"user", "123456"}}), absl::StatusCode::kOutOfRange, {"context 8"}));
  chat_template_ = absl::UnimplementedError("its template is not known");
  EXPECT_TRUE(Fails(ValidateChat({{"user", "a"}}), absl::StatusCode::kFailedPrecondition,
                    {"its template is not known", "send a text"}));
}

TEST_F(RequestValidatorTest, TimeLimits) {
  const absl::Time now = absl::FromUnixSeconds(1000);
  const absl::Time soon = now + absl::Seconds(5);
  const absl::Time never = absl::InfiniteFuture();
  EXPECT_EQ(RequestDeadline(never, now, limits_), never);
  EXPECT_EQ(RequestDeadline(soon, now, limits_), soon);
  limits_.default_timeout = absl::Seconds(3);
  EXPECT_EQ(RequestDeadline(never, now, limits_), now + absl::Seconds(3));
  EXPECT_EQ(RequestDeadline(soon, now, limits_), soon);
  limits_.max_timeout = absl::Seconds(2);
  EXPECT_EQ(RequestDeadline(never, now, limits_), now + absl::Seconds(2));
  EXPECT_EQ(RequestDeadline(soon, now, limits_), now + absl::Seconds(2));
  EXPECT_EQ(RequestDeadline(now - absl::Seconds(1), now, limits_), now - absl::Seconds(1));
}

}  // namespace
}  // namespace penstock
