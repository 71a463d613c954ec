#include "frontend/grpc_server.h"

#include <gtest/gtest.h>

#include <future>

#include "google/rpc/status.pb.h"
#include "tests/support/inference_fixture.h"
#include "tests/support/raw_call.h"

namespace penstock {
namespace {

using GrpcServerTest = InferenceFixture;

TEST_F(GrpcServerTest, StreamsAnAnswer) {
  StartAll();
  v1::GenerateRequest request = Endless(20);
  request.mutable_sampling()->set_logprobs(0);
  request.set_model("Fake");
  Responses responses;
  ASSERT_TRUE(Generate(request, &responses).ok());
  const std::vector<int32_t> expected = Alone(request);
  EXPECT_EQ(Ids(responses), expected);
  std::string text;
  std::vector<float> logprobs;
  for (size_t i = 0; i < responses.size(); ++i) {
    text += responses[i].text();
    logprobs.insert(logprobs.end(), responses[i].logprobs().begin(), responses[i].logprobs().end());
    EXPECT_EQ(responses[i].prompt_ids_size(), i == 0 ? 2 : 0);
    const bool last = i + 1 == responses.size();
    EXPECT_EQ(responses[i].has_usage(), last);
    EXPECT_EQ(responses[i].finish_reason() != v1::FINISH_REASON_UNSPECIFIED, last);
  }
  EXPECT_EQ(text, Detokenize(runtime_->tokenizer(), expected));
  ASSERT_EQ(logprobs.size(), expected.size());
  EXPECT_EQ(logprobs[3], FakeModel::Logprob(expected[3]));
  EXPECT_EQ(responses[0].prompt_ids(0), 10);
  EXPECT_EQ(responses.back().finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(responses.back().usage().prompt_tokens(), 2);
  EXPECT_EQ(responses.back().usage().completion_tokens(), 20);
  EXPECT_EQ(responses.back().usage().seed(), request.sampling().seed());
}

TEST_F(GrpcServerTest, TheEndTokenIsAnIdButNoText) {
  StartAll();
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(12);
  request.mutable_sampling()->set_max_tokens(200);
  request.mutable_sampling()->set_seed(0);
  while (Alone(request).back() != 1) {
    request.mutable_sampling()->set_seed(request.sampling().seed() + 1);
  }
  Responses responses;
  ASSERT_TRUE(Generate(request, &responses).ok());
  EXPECT_EQ(Ids(responses), Alone(request));
  EXPECT_EQ(responses.back().finish_reason(), v1::FINISH_REASON_STOP);
  std::string text;
  for (const v1::GenerateResponse& response : responses) {
    text += response.text();
    EXPECT_EQ(response.logprobs_size(), 0);
  }
  std::vector<int32_t> without_end = Alone(request);
  without_end.pop_back();
  EXPECT_EQ(text, Detokenize(runtime_->tokenizer(), without_end));
}

TEST_F(GrpcServerTest, DrawsAndTellsASeed) {
  StartAll();
  v1::GenerateRequest request;
  request.set_text("hello");
  Responses first, second, again;
  ASSERT_TRUE(Generate(request, &first).ok());
  ASSERT_TRUE(Generate(request, &second).ok());
  EXPECT_NE(first.back().usage().seed(), second.back().usage().seed());
  request.mutable_sampling()->set_seed(first.back().usage().seed());
  ASSERT_TRUE(Generate(request, &again).ok());
  EXPECT_EQ(Ids(again), Ids(first));
  EXPECT_LE(Ids(again).size(), 8u);  // the default
}

TEST_F(GrpcServerTest, SeveralAtOnceGetWhatEachGetsAlone) {
  StartAll();
  std::vector<std::future<void>> clients;
  for (int32_t i = 0; i < 16; ++i) {
    clients.push_back(std::async(std::launch::async, [this, i] {
      const v1::GenerateRequest request = Endless(30, 20 + i);
      Responses responses;
      const grpc::Status status = Generate(request, &responses);
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_EQ(Ids(responses), Alone(request));
    }));
  }
  for (std::future<void>& client : clients) client.wait();
  EXPECT_TRUE(Eventually([this] { return EngineIsEmpty(); }));
}

TEST_F(GrpcServerTest, BadInputGetsItsCode) {
  StartAll();
  const v1::GenerateRequest good = Endless(2);
  v1::GenerateRequest bad = good;
  bad.set_model("another");
  EXPECT_EQ(Code(bad), grpc::StatusCode::NOT_FOUND);
  bad = good;
  bad.clear_prompt();
  EXPECT_EQ(Code(bad), grpc::StatusCode::INVALID_ARGUMENT);
  bad.set_text("");
  EXPECT_EQ(Code(bad), grpc::StatusCode::INVALID_ARGUMENT);
  bad = good;
  bad.mutable_token_ids()->set_ids(0, model_.vocab_size);
  EXPECT_EQ(Code(bad), grpc::StatusCode::INVALID_ARGUMENT);
  bad = good;
  bad.mutable_token_ids()->mutable_ids()->Resize(256, 5);
  EXPECT_EQ(Code(bad), grpc::StatusCode::OUT_OF_RANGE);
  bad = good;
  bad.mutable_sampling()->set_logprobs(21);
  EXPECT_EQ(Code(bad), grpc::StatusCode::INVALID_ARGUMENT);
  bad = good;
  bad.set_text(std::string(5000, 'a'));  // longer than a message may be
  EXPECT_EQ(Code(bad), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Code(good), grpc::StatusCode::OK);
}

TEST_F(GrpcServerTest, BytesThatAreNoMessageGetASentence) {
  StartAll();
  struct Case {
    std::string bytes;
    std::string words;
  };
  const Case cases[] = {
      {"\x12\x03"
       "ab\xff",
       "field text is not valid UTF-8: byte 2 (0xff)"},
      {"\x12\x05hello\x12\x01\xc3", "field text is not valid UTF-8: byte 0 (0xc3)"},
      {"\x0a\x01\xc0", "field model is not valid UTF-8: byte 0 (0xc0)"},
      {"\x2a\x05\x62\x03yz\xfe", "field sampling.stop is not valid UTF-8: byte 2 (0xfe)"},
      {"\x32\x07\x0a\x05\x12\x03hi\x80",
       "field chat.messages.content is not valid UTF-8: byte 2 (0x80)"},
      {"\x12\x7f", "not a penstock.v1.GenerateRequest"},
      {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "not a penstock.v1.GenerateRequest"},
      {"", "no prompt"},
  };
  for (const Case& one : cases) {
    const grpc::Status status = CallRaw(channel_, "/penstock.v1.Inference/Generate", one.bytes);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_NE(status.error_message().find(one.words), std::string::npos) << status.error_message();
  }
}

TEST_F(GrpcServerTest, ACancelledCallFreesItsBlocks) {
  StartAll();
  control_->Hold();
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, Endless(100));
  control_->WaitForPlans(1);
  control_->Permit(3);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_FALSE(EngineIsEmpty());
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  // Blocks of a plan in flight come back with its result.
  control_->Release();
  EXPECT_TRUE(Eventually([this] { return EngineIsEmpty(); }));
  EXPECT_LT(runtime_->engine().stats().generated_tokens, 100);
}

TEST_F(GrpcServerTest, ADeadlineEndsACall) {
  StartAll();
  control_->Hold();
  Responses responses;
  const grpc::Status status = Generate(Endless(100), &responses, std::chrono::milliseconds(150));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  control_->Release();
  EXPECT_TRUE(Eventually([this] { return EngineIsEmpty(); }));
  EXPECT_EQ(Code(Endless(2)), grpc::StatusCode::OK);
}

TEST_F(GrpcServerTest, AClientThatReadsLateGetsAll) {
  StartAll();
  const v1::GenerateRequest request = Endless(150);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  ASSERT_TRUE(Eventually([this] { return runtime_->engine().stats().generated_tokens == 150; }));
  Responses responses;
  v1::GenerateResponse response;
  while (reader->Read(&response)) responses.push_back(response);
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(Ids(responses), Alone(request));
}

TEST_F(GrpcServerTest, AFullQueueSaysWhenToTryAgain) {
  options_.engine.max_queued_requests = 1;
  options_.stage.max_sequences = 1;
  StartAll();
  control_->Hold();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  const auto start = [&] {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stub_->Generate(contexts.back().get(), Endless(5)));
  };
  start();
  ASSERT_TRUE(Eventually([this] { return runtime_->engine().stats().running == 1; }));
  start();
  ASSERT_TRUE(Eventually([this] { return runtime_->engine().stats().waiting == 1; }));
  Responses responses;
  const grpc::Status status = Generate(Endless(5), &responses);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(grpc::StatusCode::RESOURCE_EXHAUSTED));
  EXPECT_EQ(details.message(), status.error_message());
  google::rpc::RetryInfo retry;
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&retry));
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.RetryInfo");
  EXPECT_GE(retry.retry_delay().seconds(), 1);
  // The two that were taken in get their answers.
  control_->Release();
  for (const auto& reader : readers) {
    v1::GenerateResponse response;
    while (reader->Read(&response)) continue;
    EXPECT_TRUE(reader->Finish().ok());
  }
}

TEST_F(GrpcServerTest, RefusesWhileLoading) {
  StartServer();
  Responses responses;
  const grpc::Status status = Generate(Endless(2), &responses);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(status.error_message().find("loading"), std::string::npos);
  grpc::ClientContext context;
  v1::GetModelInfoResponse info;
  EXPECT_EQ(stub_->GetModelInfo(&context, {}, &info).error_code(), grpc::StatusCode::UNAVAILABLE);
  StartModel();
  EXPECT_EQ(Code(Endless(2)), grpc::StatusCode::OK);
}

TEST_F(GrpcServerTest, DrainsRunningAnswersAndRefusesNewOnes) {
  StartAll();
  const v1::GenerateRequest request = Endless(50);
  control_->Hold();
  Responses responses;
  std::future<grpc::Status> running =
      std::async(std::launch::async, [&] { return Generate(request, &responses); });
  control_->WaitForPlans(1);
  server_->SetDraining();
  EXPECT_EQ(Code(request), grpc::StatusCode::UNAVAILABLE);
  control_->Release();
  runtime_->engine().Drain(absl::Seconds(20));
  server_->Shutdown(absl::Seconds(20));
  EXPECT_TRUE(running.get().ok());
  EXPECT_EQ(Ids(responses), Alone(request));
}

TEST_F(GrpcServerTest, ADrainThatTakesTooLongEndsAnswersWithWhatThereIs) {
  StartAll();
  control_->Hold();
  Responses responses;
  std::future<grpc::Status> running =
      std::async(std::launch::async, [&] { return Generate(Endless(50), &responses); });
  control_->WaitForPlans(1);
  control_->Permit(4);
  ASSERT_TRUE(Eventually([this] { return runtime_->engine().stats().generated_tokens == 4; }));
  server_->SetDraining();
  runtime_->engine().Drain(absl::Milliseconds(20));
  EXPECT_EQ(running.get().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Ids(responses).size(), 4u);
  EXPECT_EQ(responses.back().finish_reason(), v1::FINISH_REASON_ERROR);
}

TEST_F(GrpcServerTest, AFailedPlanLosesNoToken) {
  StartAll();
  control_->FailAt(3, absl::InternalError("out of order"));
  Responses responses;
  EXPECT_TRUE(Generate(Endless(50), &responses).ok());
  EXPECT_EQ(Ids(responses), Alone(Endless(50)));
}

TEST_F(GrpcServerTest, APipelineThatIsGivenUpIsTold) {
  options_.pipeline.max_deaths = 0;
  StartAll();
  control_->FailAt(3, absl::InternalError("out of order"));
  Responses responses;
  const grpc::Status status = Generate(Endless(50), &responses);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(status.error_message().find("out of order"), std::string::npos);
  EXPECT_EQ(Code(Endless(2)), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcServerTest, TellsWhatItServes) {
  StartAll();
  grpc::ClientContext context;
  v1::GetModelInfoResponse info;
  ASSERT_TRUE(stub_->GetModelInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.model(), "Fake");
  EXPECT_EQ(info.architecture(), "llama");
  EXPECT_EQ(info.vocab_size(), model_.vocab_size);
  EXPECT_EQ(info.context_length(), 256);
  EXPECT_EQ(info.num_layers(), 2);
  EXPECT_EQ(info.hidden_size(), 64);
  EXPECT_EQ(info.end_ids_size(), 2);
  EXPECT_EQ(info.precision(), "f32");
  EXPECT_EQ(info.num_stages(), 1);
  EXPECT_EQ(info.kv_blocks(), 32);
  EXPECT_EQ(info.kv_block_tokens(), 64);
  EXPECT_FALSE(info.version().empty());
}

TEST_F(GrpcServerTest, TheContextIsNoLongerThanTheKvMemory) {
  model_.num_blocks = 2;
  StartAll();
  EXPECT_EQ(runtime_->limits().context_length, 128);
  const v1::GenerateRequest request = Endless(126);
  EXPECT_EQ(Code(request), grpc::StatusCode::OK);
}

TEST_F(GrpcServerTest, ATokenizerOfAnotherSizeIsRefused) {
  StartServer();
  model_.vocab_size = 50;
  EXPECT_TRUE(Fails(ModelRuntime::Start(options_, MakeTokenizer(SmallVocabulary()).value(),
                                        std::make_unique<FakeExecutor>(model_, control_)),
                    absl::StatusCode::kInvalidArgument, {"50 rows", "tokenizer"}));
}

TEST_F(GrpcServerTest, APortInUseIsAnError) {
  StartServer();
  GrpcServerOptions options;
  options.listen = server_->address();
  EXPECT_TRUE(Fails(GrpcServer::Start(options), absl::StatusCode::kAlreadyExists,
                    {server_->address().ToString(), "in use by another program", "--listen"}));
}

TEST_F(GrpcServerTest, AnswersWithoutAPort) {
  server_ = GrpcServer::Start({}).value();
  stub_ = v1::Inference::NewStub(server_->InProcessChannel());
  StartModel();
  const v1::GenerateRequest request = Endless(40);
  Responses responses;
  ASSERT_TRUE(Generate(request, &responses).ok());
  EXPECT_EQ(Ids(responses), Alone(request));
}

}  // namespace
}  // namespace penstock
