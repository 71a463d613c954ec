// The Generate call over a real connection: several answers, stop texts, log-probabilities.
#include "frontend/generate_handler.h"

#include <gtest/gtest.h>

#include <future>
#include <map>

#include "tests/support/inference_fixture.h"

namespace penstock {
namespace {

// One choice's part of a stream.
struct Choice {
  std::vector<int32_t> ids;
  std::string text;
  std::vector<v1::TopLogprobs> top;
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
  v1::GenerateResponse last;
};

class GenerateHandlerTest : public InferenceFixture {
 protected:
  // Sorts the messages of a call by choice and checks what holds for every call.
  static std::map<int32_t, Choice> Sort(const Responses& responses) {
    std::map<int32_t, Choice> choices;
    int64_t tokens = 0;
    for (size_t i = 0; i < responses.size(); ++i) {
      const v1::GenerateResponse& response = responses[i];
      Choice& choice = choices[response.choice()];
      EXPECT_EQ(choice.reason, v1::FINISH_REASON_UNSPECIFIED) << "a message behind the end";
      choice.ids.insert(choice.ids.end(), response.ids().begin(), response.ids().end());
      choice.text += response.text();
      choice.top.insert(choice.top.end(), response.top_logprobs().begin(),
                        response.top_logprobs().end());
      choice.reason = response.finish_reason();
      choice.last = response;
      EXPECT_EQ(response.prompt_ids_size() > 0, i == 0);
      EXPECT_EQ(response.has_usage(), i + 1 == responses.size());
      tokens += response.ids_size();
    }
    EXPECT_EQ(responses.back().usage().completion_tokens(), tokens);
    return choices;
  }
  std::vector<int32_t> AloneAs(const v1::GenerateRequest& request, int32_t choice) const {
    v1::GenerateRequest as = request;
    as.mutable_sampling()->set_seed(FakeModel::ChoiceSeed(request.sampling().seed(), choice));
    return Alone(as);
  }
  std::string Text(std::vector<int32_t> ids) const {
    if (!ids.empty() && ids.back() < 2) ids.pop_back();  // the end token
    return Detokenize(runtime_->tokenizer(), ids);
  }
};

TEST_F(GenerateHandlerTest, SeveralAnswersInOneCall) {
  StartAll();
  v1::GenerateRequest request = Endless(40);
  request.mutable_sampling()->set_n(10);  // more than there are slots
  Responses responses;
  ASSERT_TRUE(Generate(request, &responses).ok());
  const std::map<int32_t, Choice> choices = Sort(responses);
  ASSERT_EQ(choices.size(), 10u);
  for (const auto& [index, choice] : choices) {
    const std::vector<int32_t> alone = AloneAs(request, index);
    EXPECT_EQ(choice.ids, alone);
    EXPECT_EQ(choice.text, Text(alone));
    EXPECT_EQ(choice.reason, alone.back() < 2 ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(choice.last.stop_id(), alone.back() < 2 ? alone.back() : 0);
  }
  EXPECT_NE(choices.at(0).ids, choices.at(1).ids);
  EXPECT_EQ(responses.back().usage().prompt_tokens(), 2);
  EXPECT_TRUE(Eventually([this] { return EngineIsEmpty(); }));
}

TEST_F(GenerateHandlerTest, AnswersAreTakenInTogetherOrNotAtAll) {
  options_.engine.max_queued_requests = 4;
  options_.stage.max_sequences = 1;
  StartAll();
  control_->Hold();
  std::future<grpc::StatusCode> running =
      std::async(std::launch::async, [this] { return Code(Endless(5)); });
  control_->WaitForPlans(1);
  v1::GenerateRequest request = Endless(5);
  request.mutable_sampling()->set_n(3);
  std::future<grpc::StatusCode> waiting =
      std::async(std::launch::async, [this, request] { return Code(request); });
  ASSERT_TRUE(Eventually([this] { return runtime_->engine().stats().waiting == 3; }));
  EXPECT_EQ(Code(request), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(runtime_->engine().stats().waiting, 3);
  request.mutable_sampling()->set_n(5);
  EXPECT_EQ(Code(request), grpc::StatusCode::OUT_OF_RANGE);
  control_->Release();
  EXPECT_EQ(running.get(), grpc::StatusCode::OK);
  EXPECT_EQ(waiting.get(), grpc::StatusCode::OK);
}

TEST_F(GenerateHandlerTest, ACancelledCallEndsAllItsAnswers) {
  StartAll();
  control_->Hold();
  grpc::ClientContext context;
  v1::GenerateRequest request = Endless(100);
  request.mutable_sampling()->set_n(12);
  const auto reader = stub_->Generate(&context, request);
  control_->WaitForPlans(1);
  control_->Permit(3);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  // The server has heard of it: those end first that are in no plan.
  EXPECT_TRUE(Eventually([this] { return runtime_->engine().stats().waiting == 0; }));
  control_->Release();
  EXPECT_TRUE(Eventually([this] { return EngineIsEmpty(); }));
  EXPECT_LT(runtime_->engine().stats().generated_tokens, 200);
}

TEST_F(GenerateHandlerTest, AnAnswerThatFailsLeavesTheOthersAlone) {
  v1::GenerateRequest request = Endless(30);
  request.mutable_sampling()->set_n(4);
  // A token that choice 2 comes to and the others do not.
  for (const int32_t token : AloneAs(request, 2)) {
    bool others = false;
    for (const int32_t choice : {0, 1, 3}) {
      const std::vector<int32_t> ids = AloneAs(request, choice);
      others = others || std::count(ids.begin(), ids.end(), token) != 0;
    }
    if (!others) model_.bad_token = token;
  }
  ASSERT_GE(model_.bad_token, 0);
  StartAll();
  Responses responses;
  ASSERT_TRUE(Generate(request, &responses).ok());
  const std::map<int32_t, Choice> choices = Sort(responses);
  ASSERT_EQ(choices.size(), 4u);
  for (const auto& [index, choice] : choices) EXPECT_EQ(choice.ids, AloneAs(request, index));
  EXPECT_EQ(choices.at(2).reason, v1::FINISH_REASON_ERROR);
  EXPECT_NE(choices.at(2).last.error().find("NaN"), std::string::npos);
  EXPECT_EQ(choices.at(3).last.error(), "");

  // Alone it is the call's end.
  request.mutable_sampling()->set_n(1);
  request.mutable_sampling()->set_seed(FakeModel::ChoiceSeed(request.sampling().seed(), 2));
  responses.clear();
  EXPECT_EQ(Generate(request, &responses).error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(responses.back().finish_reason(), v1::FINISH_REASON_ERROR);
}

TEST_F(GenerateHandlerTest, ATimeLimitEndsAllItsAnswers) {
  options_.limits.default_timeout = absl::Milliseconds(100);
  StartAll();
  control_->Hold();
  v1::GenerateRequest request = Endless(50);
  request.mutable_sampling()->set_n(3);
  grpc::ClientContext context;  // without a deadline
  Responses responses;
  const grpc::Status status = Generate(request, &context, &responses);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_NE(status.error_message().find("time limit"), std::string::npos);
  ASSERT_EQ(Sort(responses).size(), 3u);
  control_->Release();
  EXPECT_TRUE(Eventually([this] { return EngineIsEmpty(); }));
}

TEST_F(GenerateHandlerTest, AStopTextEndsTheAnswerAndItsSequence) {
  options_.plans_ahead = 1;  // so that plans can be counted
  StartAll();
  v1::GenerateRequest request = Endless(120);
  const std::vector<int32_t> alone = Alone(request);
  // The two characters around the 20th token, wherever they first come.
  const std::string whole = Text(alone);
  const std::string head = Text({alone.begin(), alone.begin() + 20});
  size_t begin = head.size();
  while (begin > 0 && (static_cast<unsigned char>(whole[begin]) & 0xC0) == 0x80) --begin;
  size_t end = begin + 1;
  for (int characters = 0; characters < 3; ++end) {
    if ((static_cast<unsigned char>(whole[end]) & 0xC0) != 0x80 && ++characters == 3) break;
  }
  const std::string stop = whole.substr(begin, end - begin);
  request.mutable_sampling()->add_stop("never there");
  request.mutable_sampling()->add_stop(stop);
  for (const bool include : {false, true}) {
    request.mutable_sampling()->set_include_stop(include);
    control_->Hold();
    const int64_t plans = static_cast<int64_t>(control_->executed().size());
    const int64_t tokens = runtime_->engine().stats().generated_tokens;
    grpc::ClientContext context;
    const auto reader = stub_->Generate(&context, request);
    Responses responses;
    // One token, one message, so that the engine is never ahead of the text.
    do {
      control_->WaitForPlans(plans + static_cast<int64_t>(responses.size()) + 1);
      control_->Permit(1);
      ASSERT_TRUE(reader->Read(&responses.emplace_back()));
    } while (responses.back().finish_reason() == v1::FINISH_REASON_UNSPECIFIED);
    ASSERT_TRUE(reader->Finish().ok());
    const Choice choice = Sort(responses).at(0);
    const size_t at = whole.find(stop);
    EXPECT_EQ(choice.text, whole.substr(0, include ? at + stop.size() : at));
    EXPECT_EQ(choice.reason, v1::FINISH_REASON_STOP);
    EXPECT_EQ(choice.last.stop_text(), stop);
    ASSERT_LT(choice.ids.size(), 40u);
    EXPECT_TRUE(std::equal(choice.ids.begin(), choice.ids.end(), alone.begin()));
    EXPECT_NE(Text(choice.ids).find(stop), std::string::npos);
    EXPECT_EQ(Text({choice.ids.begin(), choice.ids.end() - 1}).find(stop), std::string::npos);
    EXPECT_EQ(responses.back().usage().completion_tokens(),
              static_cast<int64_t>(choice.ids.size()));
    control_->Release();
    EXPECT_TRUE(Eventually([this] { return EngineIsEmpty(); }));
    // The next one may have been made already.
    EXPECT_LE(runtime_->engine().stats().generated_tokens - tokens,
              static_cast<int64_t>(choice.ids.size()) + 1);
    // Nor is a plan in flight that nobody waits for any more.
    EXPECT_EQ(Code(Endless(1)), grpc::StatusCode::OK);
  }
}

TEST_F(GenerateHandlerTest, AStopIdEndsTheAnswer) {
  StartAll();
  v1::GenerateRequest request = Endless(50);
  const std::vector<int32_t> alone = Alone(request);
  const int32_t stop = alone[9];
  request.mutable_sampling()->add_stop_ids(stop);
  Responses responses;
  ASSERT_TRUE(Generate(request, &responses).ok());
  const Choice choice = Sort(responses).at(0);
  const auto first = std::find(alone.begin(), alone.end(), stop);
  EXPECT_EQ(choice.ids, std::vector<int32_t>(alone.begin(), first + 1));
  EXPECT_EQ(choice.text, Detokenize(runtime_->tokenizer(), {alone.begin(), first}));
  EXPECT_EQ(choice.last.stop_id(), stop);
}

TEST_F(GenerateHandlerTest, TellsTheLikeliestTokens) {
  StartAll();
  v1::GenerateRequest request = Endless(12);
  request.mutable_sampling()->set_logprobs(3);
  Responses responses;
  ASSERT_TRUE(Generate(request, &responses).ok());
  const Choice choice = Sort(responses).at(0);
  ASSERT_EQ(choice.top.size(), 12u);
  ASSERT_EQ(choice.top[5].tokens_size(), 3);
  EXPECT_EQ(choice.top[5].tokens(2).id(), 2);
  EXPECT_EQ(choice.top[5].tokens(2).logprob(), FakeModel::Logprob(2));
}

TEST_F(GenerateHandlerTest, TellsThePromptsLogprobsOnceAndFirst) {
  options_.stage.max_sequences = 2;
  options_.stage.max_step_tokens = model_.max_step_tokens = 8;
  StartAll();
  v1::GenerateRequest request;
  for (int32_t i = 0; i < 30; ++i) request.mutable_token_ids()->add_ids(10 + i);
  v1::SamplingParams* sampling = request.mutable_sampling();
  sampling->set_prompt_logprobs(2);
  sampling->set_n(3);
  sampling->set_max_tokens(5);
  sampling->set_seed(4);
  Responses responses;
  ASSERT_TRUE(Generate(request, &responses).ok());
  const std::map<int32_t, Choice> choices = Sort(responses);
  ASSERT_EQ(choices.size(), 3u);
  std::vector<v1::PromptLogprob> told;
  bool ids = false;
  for (const v1::GenerateResponse& response : responses) {
    EXPECT_FALSE(ids && response.prompt_logprobs_size() > 0);
    ids = ids || response.ids_size() > 0;
    EXPECT_EQ(response.logprobs_size(), 0);
    told.insert(told.end(), response.prompt_logprobs().begin(), response.prompt_logprobs().end());
  }
  ASSERT_EQ(told.size(), 29u);
  for (int32_t i = 0; i < 29; ++i) {
    EXPECT_EQ(told[i].token().id(), 11 + i);
    EXPECT_EQ(told[i].top_size(), 2);
  }
  for (const auto& [index, choice] : choices) EXPECT_EQ(choice.ids, AloneAs(request, index));
}

// A client that asks for much and reads nothing.
class SlowReaderTest : public GenerateHandlerTest {
 protected:
  static constexpr int64_t kTokens = 254;  // what the context leaves
  static constexpr int64_t kTokenBytes = 32 + 20 * 8;

  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> Ask(int32_t n) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // its window stays at 64 KiB
    slow_stub_ = v1::Inference::NewStub(grpc::CreateCustomChannel(
        server_->address().ToString(), grpc::InsecureChannelCredentials(), arguments));
    v1::GenerateRequest request;
    request.mutable_token_ids()->add_ids(10);
    request.mutable_token_ids()->add_ids(11);
    v1::SamplingParams* sampling = request.mutable_sampling();
    sampling->set_max_tokens(kTokens);
    sampling->set_ignore_eos(true);
    sampling->set_logprobs(20);
    sampling->set_n(n);
    return slow_stub_->Generate(&context_, request);
  }
  void ExpectCut(grpc::ClientReader<v1::GenerateResponse>& reader) {
    v1::GenerateResponse response;
    while (reader.Read(&response)) EXPECT_FALSE(response.has_usage());
    const grpc::Status status = reader.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_NE(status.error_message().find("reads too slowly"), std::string::npos)
        << status.error_message();
    EXPECT_NE(status.error_message().find("--slow-reader-timeout"), std::string::npos);
  }

  std::unique_ptr<v1::Inference::Stub> slow_stub_;
  grpc::ClientContext context_;
};

TEST_F(SlowReaderTest, IsCutWhenItsTimeIsUp) {
  options_.limits.max_n = 24;
  options_.limits.max_stream_buffer_bytes = 256 << 10;
  options_.limits.slow_reader_timeout = absl::Milliseconds(50);
  StartAll();
  control_->Hold();
  const auto reader = Ask(24);
  control_->WaitForPlans(1);
  // Eight answers are whole, eight begun, eight wait; too much for the buffer, not four times so.
  constexpr int64_t kPlans = 400;
  ASSERT_LT(8 * kPlans * kTokenBytes, 4 * options_.limits.max_stream_buffer_bytes);
  control_->Permit(kPlans);
  // Its sequences end, those first that are in no plan.
  EXPECT_TRUE(Eventually([this] { return runtime_->engine().stats().waiting == 0; }));
  control_->Release();
  EXPECT_TRUE(Eventually([this] { return EngineIsEmpty(); }));
  EXPECT_LE(runtime_->engine().stats().generated_tokens, 8 * (kPlans + 2));
  ExpectCut(*reader);
}

TEST_F(SlowReaderTest, IsCutAtOnceForMuchMoreAndOthersLoseNothing) {
  options_.limits.max_stream_buffer_bytes = 64 << 10;
  options_.limits.slow_reader_timeout = absl::InfiniteDuration();
  StartAll();
  const v1::GenerateRequest other = Endless(100);
  const auto reader = Ask(16);
  for (int i = 0; i < 3; ++i) {
    Responses responses;
    EXPECT_TRUE(Generate(other, &responses).ok());
    EXPECT_EQ(Sort(responses).at(0).ids, Alone(other));
  }
  EXPECT_TRUE(Eventually([this] { return EngineIsEmpty(); }));
  ExpectCut(*reader);
}

TEST_F(SlowReaderTest, ThatReadsInTimeGetsAll) {
  options_.limits.max_stream_buffer_bytes = 256 << 10;
  options_.limits.slow_reader_timeout = absl::Hours(1);
  StartAll();
  const auto reader = Ask(16);
  ASSERT_TRUE(Eventually([this] {
    return runtime_->engine().stats().generated_tokens == 16 * kTokens && EngineIsEmpty();
  }));
  Responses responses;
  v1::GenerateResponse response;
  while (reader->Read(&response)) responses.push_back(response);
  EXPECT_TRUE(reader->Finish().ok());
  const std::map<int32_t, Choice> choices = Sort(responses);
  ASSERT_EQ(choices.size(), 16u);
  for (const auto& [index, choice] : choices) {
    EXPECT_EQ(static_cast<int64_t>(choice.ids.size()), kTokens);
    EXPECT_EQ(choice.reason, v1::FINISH_REASON_LENGTH);
  }
}

}  // namespace
}  // namespace penstock
