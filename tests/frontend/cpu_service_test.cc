// The whole service over a small model that computes: what the sampling fields do to an answer.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/support/inference_fixture.h"
#include "tests/support/tiny_model.h"

namespace penstock {
namespace {

class CpuServiceTest : public InferenceFixture {
 protected:
  struct Answer {
    std::vector<int32_t> ids;
    std::string text;
    std::vector<float> logprobs;
    v1::GenerateResponse last;
  };

  CpuServiceTest() : file_(testing::TinyModel().Build()) {
    options_.stage.model = file_.path();
    options_.stage.kv_memory_bytes = 1 << 22;
    options_.stage.threads = 2;
    StartServer();
    runtime_ = ModelRuntime::Load(options_).value();
    server_->SetReady(runtime_.get());
  }

  // Sampled, so that nothing repeats by itself.
  static v1::GenerateRequest Request(int64_t max_tokens) {
    v1::GenerateRequest request;
    for (const int32_t id : {10, 40, 41, 7}) request.mutable_token_ids()->add_ids(id);
    request.mutable_sampling()->set_max_tokens(max_tokens);
    request.mutable_sampling()->set_seed(3);
    request.mutable_sampling()->set_logprobs(0);
    return request;
  }
  std::map<int32_t, Answer> Answers(const v1::GenerateRequest& request) {
    Responses responses;
    const grpc::Status status = Generate(request, &responses);
    EXPECT_TRUE(status.ok()) << status.error_message();
    std::map<int32_t, Answer> answers;
    for (const v1::GenerateResponse& response : responses) {
      Answer& answer = answers[response.choice()];
      answer.ids.insert(answer.ids.end(), response.ids().begin(), response.ids().end());
      answer.logprobs.insert(answer.logprobs.end(), response.logprobs().begin(),
                             response.logprobs().end());
      answer.text += response.text();
      answer.last = response;
    }
    return answers;
  }

  const testing::TempFile file_;
};

TEST_F(CpuServiceTest, AnAnswerDoesNotDependOnHowManyThereAre) {
  v1::GenerateRequest request = Request(30);
  request.mutable_sampling()->set_ignore_eos(true);
  const Answer one = Answers(request).at(0);
  request.mutable_sampling()->set_n(3);
  const std::map<int32_t, Answer> three = Answers(request);
  request.mutable_sampling()->set_n(10);
  const std::map<int32_t, Answer> ten = Answers(request);
  EXPECT_EQ(three.at(0).ids, one.ids);
  std::set<std::vector<int32_t>> different;
  for (const auto& [choice, answer] : ten) different.insert(answer.ids);
  EXPECT_EQ(different.size(), 10u);
  for (const auto& [choice, answer] : three) {
    EXPECT_EQ(answer.ids, ten.at(choice).ids);
    EXPECT_EQ(answer.logprobs, ten.at(choice).logprobs);
  }
}

// The prompt's log-probabilities of an answer are those it was made with, bit for bit.
TEST_F(CpuServiceTest, AnAnswerAsAPromptHasTheSameLogprobs) {
  v1::GenerateRequest request = Request(40);
  request.mutable_sampling()->set_ignore_eos(true);
  const Answer answer = Answers(request).at(0);
  ASSERT_EQ(answer.ids.size(), 40u);
  v1::GenerateRequest again = request;
  again.mutable_token_ids()->mutable_ids()->Add(answer.ids.begin(), answer.ids.end());
  again.mutable_sampling()->set_max_tokens(1);
  again.mutable_sampling()->set_prompt_logprobs(3);
  Responses responses;
  ASSERT_TRUE(Generate(again, &responses).ok());
  std::vector<v1::PromptLogprob> told;
  for (const v1::GenerateResponse& response : responses) {
    told.insert(told.end(), response.prompt_logprobs().begin(), response.prompt_logprobs().end());
  }
  ASSERT_EQ(told.size(), 43u);
  for (size_t i = 0; i < answer.ids.size(); ++i) {
    const v1::PromptLogprob& one = told[3 + i];
    EXPECT_EQ(one.token().id(), answer.ids[i]);
    EXPECT_EQ(one.token().logprob(), answer.logprobs[i]);
    ASSERT_EQ(one.top_size(), 3);
    EXPECT_GE(one.top(0).logprob(), one.top(1).logprob());
    EXPECT_GE(one.top(0).logprob(), one.token().logprob());
  }
}

TEST_F(CpuServiceTest, EndTokensAreHeldOffOrIgnored) {
  v1::GenerateRequest request = Request(60);
  // So likely that it would be the first.
  (*request.mutable_sampling()->mutable_logit_bias())[2] = 100.0f;
  Answer answer = Answers(request).at(0);
  EXPECT_EQ(answer.ids, std::vector<int32_t>{2});
  EXPECT_EQ(answer.last.stop_id(), 2);
  request.mutable_sampling()->set_min_tokens(7);
  answer = Answers(request).at(0);
  EXPECT_EQ(answer.ids.size(), 8u);
  EXPECT_EQ(std::count(answer.ids.begin(), answer.ids.end(), 2), 1);
  EXPECT_EQ(answer.last.finish_reason(), v1::FINISH_REASON_STOP);
  request.mutable_sampling()->set_ignore_eos(true);
  answer = Answers(request).at(0);
  EXPECT_EQ(answer.ids, std::vector<int32_t>(60, 2));
  EXPECT_EQ(answer.text, "");
  EXPECT_EQ(answer.last.finish_reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(CpuServiceTest, BadWordsAreNeverCompleted) {
  v1::GenerateRequest request = Request(60);
  request.mutable_sampling()->set_ignore_eos(true);
  // Two letters that follow each other all the time, unless they must not.
  const int32_t x = 3 + 'x' - '!', y = 3 + 'y' - '!';
  (*request.mutable_sampling()->mutable_logit_bias())[x] = 100.0f;
  (*request.mutable_sampling()->mutable_logit_bias())[y] = 100.0f;
  EXPECT_NE(Answers(request).at(0).text.find("xyx"), std::string::npos);
  request.mutable_sampling()->add_bad_words("xyx");
  const Answer answer = Answers(request).at(0);
  EXPECT_EQ(answer.text.find("xyx"), std::string::npos);
  EXPECT_NE(answer.text.find("xy"), std::string::npos);
  EXPECT_EQ(answer.ids.size(), 60u);
}

TEST_F(CpuServiceTest, StopTextsEndSampledAnswers) {
  v1::GenerateRequest request = Request(60);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_sampling()->set_n(8);
  const std::map<int32_t, Answer> whole = Answers(request);
  request.mutable_sampling()->add_stop("e");
  request.mutable_sampling()->add_stop("~a");
  for (const auto& [choice, answer] : Answers(request)) {
    const std::string& text = whole.at(choice).text;
    const size_t at = std::min(text.find('e'), text.find("~a"));
    EXPECT_EQ(answer.text, text.substr(0, at));
    EXPECT_EQ(answer.last.has_stop_text(), at != std::string::npos);
    EXPECT_TRUE(std::equal(answer.ids.begin(), answer.ids.end(), whole.at(choice).ids.begin()));
  }
}

TEST_F(CpuServiceTest, ALargePenaltyRepeatsNothing) {
  v1::GenerateRequest request = Request(40);
  v1::SamplingParams* sampling = request.mutable_sampling();
  sampling->set_ignore_eos(true);
  sampling->set_temperature(0);
  sampling->set_min_p(0.5f);
  sampling->set_presence_penalty(2.0f);
  sampling->set_frequency_penalty(2.0f);
  sampling->set_repetition_penalty(100.0f);
  const std::vector<int32_t> ids = Answers(request).at(0).ids;
  EXPECT_EQ(std::set<int32_t>(ids.begin(), ids.end()).size(), ids.size());
}

TEST_F(CpuServiceTest, AChatNeedsATemplate) {
  v1::GenerateRequest request;
  request.mutable_chat()->add_messages()->set_role("user");
  Responses responses;
  const grpc::Status status = Generate(request, &responses);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(status.error_message().find("chat template"), std::string::npos);
  grpc::ClientContext context;
  v1::GetModelInfoResponse info;
  ASSERT_TRUE(stub_->GetModelInfo(&context, {}, &info).ok());
  EXPECT_FALSE(info.chat());
  EXPECT_EQ(info.limits().max_n(), 16);
  EXPECT_EQ(info.limits().max_logprobs(), 20);
}

}  // namespace
}  // namespace penstock
