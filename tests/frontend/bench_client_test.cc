#include "frontend/bench_client.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <thread>

#include "penstock/v1/inference.grpc.pb.h"

namespace penstock {
namespace {

constexpr int64_t kVocabulary = 100;

// A server that does what the number of tokens asked for tells it.
class ScriptedServer final : public v1::Inference::Service {
 public:
  static constexpr int64_t kTooShort = 1001;
  static constexpr int64_t kEndless = 1002;
  static constexpr int64_t kBadId = 1003;
  static constexpr int64_t kRefuses = 1004;
  static constexpr int64_t kHangs = 1005;
  static constexpr int64_t kMeets = 4;  // waits until two calls have been under way at once

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      requests_.push_back(*request);
      most_ = std::max(most_, ++running_);
    }
    const grpc::Status status = Answer(context, request->sampling().max_tokens(), writer);
    std::lock_guard<std::mutex> lock(mutex_);
    --running_;
    return status;
  }

  std::vector<v1::GenerateRequest> requests() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return requests_;
  }
  int most() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return most_;
  }

 private:
  using Writer = grpc::ServerWriter<v1::GenerateResponse>;

  static void Write(std::initializer_list<int32_t> ids, Writer* writer) {
    v1::GenerateResponse response;
    response.mutable_ids()->Add(ids.begin(), ids.end());
    writer->Write(response);
  }

  grpc::Status Answer(grpc::ServerContext* context, int64_t max_tokens, Writer* writer) {
    switch (max_tokens) {
      case kRefuses:
        return {grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full"};
      case kEndless:
        while (!context->IsCancelled()) Write({1, 2, 3}, writer);
        return grpc::Status::CANCELLED;
      case kHangs:
        while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return grpc::Status::CANCELLED;
      case kTooShort:
        Write({1, 2, 3}, writer);
        break;
      case kBadId:
        for (int64_t i = 0; i < kBadId; ++i) Write({kVocabulary}, writer);
        break;
      case kMeets:
        while (most() < 2 && !context->IsCancelled()) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        [[fallthrough]];
      default:
        Write({}, writer);
        Write({1, 2}, writer);
        for (int64_t i = 2; i < max_tokens; ++i) Write({static_cast<int32_t>(i)}, writer);
        Write({}, writer);  // finish_reason and usage
    }
    return grpc::Status::OK;
  }

  mutable std::mutex mutex_;
  std::vector<v1::GenerateRequest> requests_;  // guarded by mutex_
  int running_ = 0;                            // guarded by mutex_
  int most_ = 0;                               // guarded by mutex_
};

class BenchClientTest : public testing::Test {
 protected:
  BenchClientTest() {
    options_.vocabulary = kVocabulary;
    options_.timeout = absl::Seconds(60);
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
  }
  ~BenchClientTest() override { server_->Shutdown(); }

  std::vector<BenchCall> Run(const std::vector<TraceRequest>& trace) {
    const grpc::ChannelArguments arguments;
    return RunBench({server_->InProcessChannel(arguments), server_->InProcessChannel(arguments)},
                    trace, options_, [this](int64_t done, int64_t tokens) {
                      done_ = done;
                      tokens_ = tokens;
                    });
  }
  BenchCall RunOne(int64_t output) { return Run({{0, 3, output, 5}})[0]; }

  BenchRunOptions options_;
  ScriptedServer service_;
  std::unique_ptr<grpc::Server> server_;
  int64_t done_ = 0;
  int64_t tokens_ = 0;
};

TEST_F(BenchClientTest, TakesTheTimeOfEveryToken) {
  const BenchCall call = RunOne(6);
  EXPECT_EQ(call.error, "");
  EXPECT_EQ(call.ids, (std::vector<int32_t>{1, 2, 2, 3, 4, 5}));
  EXPECT_EQ(call.prompt_tokens, 3);
  EXPECT_EQ(call.output_tokens, 6);
  ASSERT_EQ(call.gaps_ns.size(), 5u);
  EXPECT_EQ(call.gaps_ns[0], 0);  // came with the first
  double until_last = static_cast<double>(call.first_ns);
  for (const double gap : call.gaps_ns) until_last += gap;
  EXPECT_GT(call.first_ns, 0);
  EXPECT_LE(until_last, static_cast<double>(call.end_ns));
  EXPECT_EQ(done_, 1);
  EXPECT_EQ(tokens_, 6);
}

TEST_F(BenchClientTest, AsksGreedilyForExactlySoManyTokens) {
  options_.seed = 2;
  RunOne(6);
  ASSERT_EQ(service_.requests().size(), 1u);
  const v1::GenerateRequest request = service_.requests()[0];
  const auto& ids = request.token_ids().ids();
  EXPECT_EQ(std::vector<int32_t>(ids.begin(), ids.end()), TracePromptIds(7, 3, kVocabulary));
  EXPECT_EQ(request.sampling().max_tokens(), 6);
  EXPECT_EQ(request.sampling().temperature(), 0);
  EXPECT_TRUE(request.sampling().ignore_eos());
}

TEST_F(BenchClientTest, AWrongAnswerIsAnError) {
  EXPECT_EQ(RunOne(ScriptedServer::kTooShort).error, "WRONG_LENGTH");
  EXPECT_EQ(RunOne(ScriptedServer::kEndless).error, "WRONG_LENGTH");
  EXPECT_EQ(RunOne(ScriptedServer::kBadId).error, "BAD_ID");
}

TEST_F(BenchClientTest, ErrorsAreTheCalls) {
  const BenchCall refused = RunOne(ScriptedServer::kRefuses);
  EXPECT_EQ(refused.error, "RESOURCE_EXHAUSTED");
  EXPECT_EQ(refused.message, "the queue is full");
  options_.timeout = absl::Milliseconds(20);
  EXPECT_EQ(RunOne(ScriptedServer::kHangs).error, "DEADLINE_EXCEEDED");
}

TEST_F(BenchClientTest, NeverMoreAtOnceThanAllowed) {
  options_.concurrency = 2;
  const std::vector<BenchCall> calls =
      Run(std::vector<TraceRequest>(12, {0, 3, ScriptedServer::kMeets, 5}));
  EXPECT_EQ(service_.most(), 2);
  for (const BenchCall& call : calls) EXPECT_EQ(call.error, "");
  EXPECT_EQ(done_, 12);
}

TEST_F(BenchClientTest, AllAtOnceIfNothingForbidsIt) {
  const std::vector<BenchCall> calls =
      Run(std::vector<TraceRequest>(20, {0, 3, ScriptedServer::kMeets, 5}));
  EXPECT_GE(service_.most(), 2);
  EXPECT_EQ(std::count_if(calls.begin(), calls.end(),
                          [](const BenchCall& call) { return call.error.empty(); }),
            20);
}

TEST_F(BenchClientTest, RequestsComeWhenTheyAreDue) {
  options_.rate_scale = 1000;
  const std::vector<BenchCall> calls = Run({{0, 3, 6, 1}, {5, 3, 6, 2}, {20, 3, 6, 3}});
  EXPECT_GE(calls[1].sent_ns, 5'000'000);
  EXPECT_GE(calls[2].sent_ns, 20'000'000);
  for (const BenchCall& call : calls) EXPECT_GE(call.late_ns, 0);
}

}  // namespace
}  // namespace penstock
