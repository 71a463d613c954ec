#include "frontend/engine_loop.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "tests/support/fake_stage.h"
#include "tests/support/recording_sink.h"

namespace penstock {
namespace {

const std::set<int32_t> kEndIds = {7, 21};

// An engine over a fake stage, with a clock that stands still until the test moves it.
class EngineLoopTest : public testing::Test {
 protected:
  EngineLoopTest() {
    model_.num_blocks = 16;
    model_.max_sequences = 4;
    model_.max_step_tokens = 64;
    options_.max_sequences = model_.max_sequences;
    options_.max_step_tokens = model_.max_step_tokens;
    options_.now = [this] { return absl::FromUnixSeconds(clock_.load()); };
    options_.wall = options_.now;
    pipeline_.min_plan_limit = absl::Hours(1);  // of a clock that jumps
  }
  ~EngineLoopTest() override { Stop(); }

  void Start() {
    stages_ = std::make_shared<FakePipeline>(model_, 1);
    thread_ = std::make_unique<FakeStageThread>(stages_, delay_);
    coordinator_ = std::make_unique<PipelineCoordinator>(stages_->MakeProvider(), pipeline_);
    coordinator_->Start(options_.now());
    while (coordinator_->state() == PipelineState::kLoading) {
      coordinator_->Advance(options_.now());
      coordinator_->wakeup()->Wait(absl::Milliseconds(10));
    }
    loop_ = std::make_unique<EngineLoop>(options_, PipelineCost({StageCost({}, {})}), *coordinator_,
                                         &refusals_);
  }
  void Stop() {
    loop_.reset();
    coordinator_.reset();
    thread_.reset();
  }
  void MoveClock(int64_t seconds) {
    clock_ += seconds;
    loop_->Abort(0);  // of nobody: it makes the loop look at the clock
  }

  // A request that gets `max_tokens` tokens, no end id among them.
  GenerationRequest Endless(int64_t max_tokens, int64_t prompt = 5) {
    GenerationRequest request;
    request.prompt.assign(prompt, 3);
    request.max_tokens = max_tokens;
    while (static_cast<int64_t>(Alone(request).size()) < max_tokens ||
           kEndIds.count(Alone(request).back()) != 0) {
      ++request.sampling.seed;
    }
    return request;
  }
  std::vector<int32_t> Alone(const GenerationRequest& request) const {
    return FakeModel(model_).Alone(request.prompt, request.max_tokens, request.sampling.seed,
                                   kEndIds);
  }
  std::shared_ptr<RecordingSink> Submit(GenerationRequest request, RequestId* id = nullptr) {
    request.sampling.stop_ids = {kEndIds.begin(), kEndIds.end()};
    auto sink = std::make_shared<RecordingSink>();
    const absl::StatusOr<RequestId> submitted = loop_->Submit(request, sink);
    EXPECT_TRUE(submitted.ok()) << submitted.status();
    if (id != nullptr) *id = submitted.value_or(0);
    return sink;
  }
  absl::Status Refusal(const GenerationRequest& request) {
    auto sink = std::make_shared<RecordingSink>();
    const absl::Status status = loop_->Submit(request, sink).status();
    EXPECT_FALSE(sink->record().finished);
    return status;
  }
  // After this nothing is in flight and all blocks must be free.
  void DrainAndCheckThatAllIsFree() {
    loop_->Drain(absl::InfiniteDuration());
    const EngineStats stats = loop_->stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.blocks_free, stats.blocks_total);
    EXPECT_EQ(stats.blocks_total, model_.num_blocks);
  }

  std::atomic<int64_t> clock_ = 1000;
  // May be told by any thread.
  struct Refusals : EngineObserver {
    std::atomic<absl::StatusCode> last{absl::StatusCode::kOk};
    void OnRefused(absl::StatusCode code) override { last = code; }
  };
  Refusals refusals_;
  FakeModelOptions model_;
  std::chrono::microseconds delay_{0};  // of every answer
  EngineOptions options_;
  PipelineOptions pipeline_;
  std::shared_ptr<FakePipeline> stages_;
  std::unique_ptr<FakeStageThread> thread_;
  std::unique_ptr<PipelineCoordinator> coordinator_;
  std::unique_ptr<EngineLoop> loop_;
};

TEST_F(EngineLoopTest, ManyAtOnceGetWhatEachGetsAlone) {
  Start();
  std::mt19937 random(1);
  std::vector<GenerationRequest> requests(60);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  for (GenerationRequest& request : requests) {
    request.prompt.resize(1 + random() % 200);
    for (int32_t& token : request.prompt) token = static_cast<int32_t>(random() % 50);
    request.max_tokens = 1 + random() % 40;
    request.sampling.seed = random();
    prompt_tokens += static_cast<int64_t>(request.prompt.size());
    generated_tokens += static_cast<int64_t>(Alone(request).size());
    sinks.push_back(Submit(request));
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    const RecordingSink::Record record = sinks[i]->Wait();
    EXPECT_EQ(record.tokens, Alone(requests[i]));
    EXPECT_EQ(record.code, absl::StatusCode::kOk);
    EXPECT_EQ(record.reason, kEndIds.count(record.tokens.back()) != 0 ? FinishReason::kStop
                                                                      : FinishReason::kLength);
    EXPECT_EQ(record.logprobs.back(), FakeModel::Logprob(record.tokens.back()));
    EXPECT_EQ(record.breaches, 0);
  }
  DrainAndCheckThatAllIsFree();
  const EngineStats stats = loop_->stats();
  EXPECT_EQ(stats.prompt_tokens, prompt_tokens);
  EXPECT_EQ(stats.generated_tokens, generated_tokens);
  EXPECT_LE(stats.steps, stages_->submitted());
  EXPECT_TRUE(loop_->healthy());
}

TEST_F(EngineLoopTest, AbortEndsARequestThatIsInFlight) {
  Start();
  stages_->Hold();
  RequestId id = 0;
  const auto sink = Submit(Endless(50), &id);
  stages_->WaitForPlans(1);
  loop_->Abort(id);
  const RecordingSink::Record record = sink->Wait();
  EXPECT_EQ(record.reason, FinishReason::kAbort);
  EXPECT_EQ(record.code, absl::StatusCode::kCancelled);
  EXPECT_TRUE(record.tokens.empty());
  loop_->Abort(id);
  loop_->Abort(12345);
  stages_->Permit(1000);
  DrainAndCheckThatAllIsFree();
  EXPECT_EQ(sink->record().breaches, 0);
}

TEST_F(EngineLoopTest, ARequestThatExpiresInTheQueueIsNeverPrefilled) {
  model_.max_sequences = options_.max_sequences = 1;
  Start();
  stages_->Hold();
  const auto first = Submit(Endless(3, 5));
  stages_->WaitForPlans(1);
  GenerationRequest late = Endless(3, 40);
  late.deadline = absl::FromUnixSeconds(1010);
  const auto waiting = Submit(late);
  MoveClock(20);
  EXPECT_EQ(waiting->Wait().code, absl::StatusCode::kDeadlineExceeded);
  late.deadline = absl::InfinitePast();
  EXPECT_EQ(Submit(late)->Wait().code, absl::StatusCode::kDeadlineExceeded);
  stages_->Permit(1000);
  EXPECT_EQ(first->Wait().reason, FinishReason::kLength);
  DrainAndCheckThatAllIsFree();
  EXPECT_EQ(stages_->fed_tokens(), 5 + 2);
}

TEST_F(EngineLoopTest, ADeadlineEndsARunningRequestAfterItsTokens) {
  Start();
  stages_->Hold();
  stages_->Permit(2);
  GenerationRequest request = Endless(50);
  request.deadline = absl::FromUnixSeconds(1010);
  const auto sink = Submit(request);
  sink->WaitForTokens(2);
  MoveClock(9);
  stages_->Permit(1);
  sink->WaitForTokens(3);
  EXPECT_FALSE(sink->record().finished);
  MoveClock(1);
  const RecordingSink::Record record = sink->Wait();  // the stage does not answer any more
  EXPECT_EQ(record.reason, FinishReason::kError);
  EXPECT_EQ(record.code, absl::StatusCode::kDeadlineExceeded);
  const std::vector<int32_t> alone = Alone(request);
  EXPECT_EQ(record.tokens, std::vector<int32_t>(alone.begin(), alone.begin() + 3));
  stages_->Permit(1000);
  DrainAndCheckThatAllIsFree();
}

// With the real clock: nobody but the deadline itself wakes the loop.
TEST_F(EngineLoopTest, WakesForADeadlineByItself) {
  options_.now = EngineOptions::SteadyNow;
  options_.wall = [] { return absl::Now(); };
  Start();
  stages_->Hold();
  GenerationRequest request = Endless(5);
  request.deadline = absl::Now() + absl::Milliseconds(30);
  EXPECT_EQ(Submit(request)->Wait().code, absl::StatusCode::kDeadlineExceeded);
}

TEST_F(EngineLoopTest, RefusesWhenTheQueueIsFullAndWhatNeverFits) {
  model_.max_sequences = options_.max_sequences = 1;
  options_.max_queued_requests = 2;
  Start();
  stages_->Hold();
  stages_->Permit(1);
  Submit(Endless(3))->WaitForTokens(1);  // it runs, and so does not count any more
  Submit(Endless(3));
  Submit(Endless(3));
  EXPECT_EQ(Refusal(Endless(3)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refusals_.last.load(), absl::StatusCode::kResourceExhausted);
  GenerationRequest huge = Endless(3);
  huge.max_tokens = 16 * kBlockSize - 5 + 2;
  const absl::Status never = Refusal(huge);
  EXPECT_EQ(never.code(), absl::StatusCode::kOutOfRange);
  EXPECT_NE(Message(never).find("holds 1024"), std::string::npos) << never;
  stages_->Permit(1000);
  DrainAndCheckThatAllIsFree();
}

TEST_F(EngineLoopTest, ARequestOfTheWholePoolRuns) {
  Start();
  const GenerationRequest request = Endless(16 * kBlockSize - 1023 + 1, 1023);
  EXPECT_EQ(Submit(request)->Wait().tokens, Alone(request));
}

TEST_F(EngineLoopTest, DrainFinishesWhatWasAccepted) {
  Start();
  std::vector<GenerationRequest> requests(10, Endless(20));
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (const GenerationRequest& request : requests) sinks.push_back(Submit(request));
  loop_->Drain(absl::InfiniteDuration());
  for (const auto& sink : sinks) {
    EXPECT_TRUE(sink->record().finished);
    EXPECT_EQ(sink->record().tokens, Alone(requests[0]));
  }
  const absl::Status refused = Refusal(requests[0]);
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(Message(refused).find("shutting down"), std::string::npos);
  loop_->Drain(absl::InfiniteDuration());
  loop_->Stop();
  loop_->Stop();
  loop_->Drain(absl::InfiniteDuration());
}

TEST_F(EngineLoopTest, DrainEndsWhatDoesNotFinishInTime) {
  Start();
  stages_->Hold();
  const auto running = Submit(Endless(20));
  stages_->WaitForPlans(1);
  loop_->Drain(absl::ZeroDuration());
  EXPECT_EQ(running->record().reason, FinishReason::kError);
  EXPECT_EQ(running->record().code, absl::StatusCode::kUnavailable);
}

TEST_F(EngineLoopTest, StopDoesNotWaitForAStageThatNeverAnswers) {
  Start();
  stages_->Hold();
  const auto running = Submit(Endless(20));
  stages_->WaitForPlans(1);
  loop_->Stop();
  EXPECT_EQ(running->record().code, absl::StatusCode::kUnavailable);
  EXPECT_EQ(Refusal(Endless(2)).code(), absl::StatusCode::kUnavailable);
  loop_.reset();
  stages_->Permit(1);  // an answer that comes after the loop has gone harms nobody
}

TEST_F(EngineLoopTest, APipelineThatIsGivenUpEndsEveryRequest) {
  pipeline_.max_deaths = 0;
  Start();
  stages_->Hold();
  std::vector<std::shared_ptr<RecordingSink>> sinks;  // more than there are slots
  for (int i = 0; i < 6; ++i) sinks.push_back(Submit(Endless(20)));
  stages_->Permit(1);
  sinks[0]->WaitForTokens(1);
  stages_->Die(0, "out of luck");
  for (const auto& sink : sinks) {
    const RecordingSink::Record record = sink->Wait();
    EXPECT_EQ(record.reason, FinishReason::kError);
    EXPECT_EQ(record.code, absl::StatusCode::kUnavailable);
    EXPECT_NE(record.message.find("out of luck"), std::string::npos) << record.message;
    EXPECT_EQ(record.breaches, 0);
  }
  absl::Status refused;
  // The turn that ends the requests has still to close the door.
  while (refused.ok() || absl::IsResourceExhausted(refused)) {
    refused = loop_->Submit(Endless(2), std::make_shared<RecordingSink>()).status();
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(Message(refused).find("out of luck"), std::string::npos) << refused;
  DrainAndCheckThatAllIsFree();
  EXPECT_FALSE(loop_->healthy());
  EXPECT_FALSE(loop_->ready());
}

TEST_F(EngineLoopTest, ADeadStageLosesNoStream) {
  Start();
  std::vector<GenerationRequest> requests(6, Endless(40));
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (const GenerationRequest& request : requests) sinks.push_back(Submit(request));
  sinks[0]->WaitForTokens(3);
  stages_->Die(0);
  for (const auto& sink : sinks) {
    const RecordingSink::Record record = sink->Wait();
    EXPECT_EQ(record.tokens, Alone(requests[0]));
    EXPECT_EQ(record.reason, FinishReason::kLength);
    EXPECT_EQ(record.breaches, 0);
  }
  DrainAndCheckThatAllIsFree();
  EXPECT_TRUE(loop_->healthy());
}

TEST_F(EngineLoopTest, ARowWithoutNumbersEndsItsRequestAlone) {
  model_.bad_token = 33;
  Start();
  GenerationRequest failing;
  failing.prompt = {1, 2, 3};
  failing.max_tokens = 100;
  while (FakeModel::Next(failing.prompt, failing.sampling.seed, model_.vocab_size) != 33) {
    ++failing.sampling.seed;
  }
  const GenerationRequest sound = Endless(30);
  const auto other = Submit(sound);
  const RecordingSink::Record record = Submit(failing)->Wait();
  EXPECT_EQ(record.reason, FinishReason::kError);
  EXPECT_EQ(record.code, absl::StatusCode::kInternal);
  EXPECT_NE(record.message.find("no numbers"), std::string::npos) << record.message;
  EXPECT_TRUE(record.tokens.empty());
  EXPECT_EQ(record.breaches, 0);
  EXPECT_EQ(other->Wait().tokens, Alone(sound));
  EXPECT_TRUE(loop_->healthy());
  DrainAndCheckThatAllIsFree();
}

TEST_F(EngineLoopTest, ThePromptsLogProbabilitiesComeBeforeTheAnswer) {
  Start();
  GenerationRequest request = Endless(3, 150);  // three chunks
  request.sampling.prompt_logprobs = 2;
  request.sampling.logprobs = 2;
  const RecordingSink::Record record = Submit(request)->Wait();
  EXPECT_EQ(record.tokens, Alone(request));
  ASSERT_EQ(record.prompt.size(), 149u);
  for (size_t i = 0; i < record.prompt.size(); ++i) {
    EXPECT_EQ(record.prompt[i].position, static_cast<int64_t>(i) + 1);
    EXPECT_EQ(record.prompt[i].token.token, 3);
    EXPECT_EQ(record.prompt[i].top.size(), 2u);
  }
  EXPECT_EQ(record.breaches, 0);
}

TEST_F(EngineLoopTest, APipelineThatIsGivenUpLeavesNobodyWaiting) {
  pipeline_.max_deaths = 0;
  Start();
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([this] {
      GenerationRequest request;
      request.prompt = {1, 2, 3};
      request.max_tokens = 2;
      while (true) {
        auto sink = std::make_shared<RecordingSink>();
        const absl::StatusOr<RequestId> id = loop_->Submit(request, sink);
        if (!id.ok()) {
          EXPECT_EQ(id.status().code(), absl::StatusCode::kUnavailable);
          return;
        }
        sink->Wait();
      }
    });
  }
  stages_->WaitForPlans(100);
  stages_->Die(0, "gone");
  for (std::thread& thread : clients) thread.join();
  DrainAndCheckThatAllIsFree();
}

// Several threads send, abort and let requests expire at random; nobody is lost, nobody gets a
// token that it would not get alone, and nothing is left behind.
TEST_F(EngineLoopTest, AbortStorm) {
  options_.max_queued_requests = 5;
  delay_ = std::chrono::microseconds(30);
  Start();
  std::atomic<int64_t> answered = 0;
  const auto client = [&](uint32_t seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 150; ++i) {
      GenerationRequest request;
      request.prompt.assign(1 + random() % 100, static_cast<int32_t>(random() % 50));
      request.max_tokens = 1 + random() % 60;
      request.sampling.seed = random();
      request.sampling.stop_ids = {kEndIds.begin(), kEndIds.end()};
      if (random() % 4 == 0) {
        request.deadline = absl::FromUnixSeconds(clock_ + random() % 3);
      }
      auto sink = std::make_shared<RecordingSink>();
      const absl::StatusOr<RequestId> id = loop_->Submit(request, sink);
      if (!id.ok()) {
        EXPECT_EQ(id.status().code(), absl::StatusCode::kResourceExhausted);
        continue;
      }
      const bool abort = random() % 2 == 0;
      if (abort) {
        if (random() % 2 == 0) std::this_thread::yield();
        loop_->Abort(*id);
        if (random() % 2 == 0) loop_->Abort(*id);
      }
      if (random() % 16 == 0) ++clock_;
      const RecordingSink::Record record = sink->Wait();
      const std::vector<int32_t> alone = Alone(request);
      ASSERT_LE(record.tokens.size(), alone.size());
      EXPECT_TRUE(std::equal(record.tokens.begin(), record.tokens.end(), alone.begin()));
      EXPECT_EQ(record.breaches, 0);
      switch (record.code) {
        case absl::StatusCode::kOk:
          EXPECT_EQ(record.tokens, alone);
          ++answered;
          break;
        case absl::StatusCode::kCancelled:
          EXPECT_TRUE(abort);
          break;
        default:
          EXPECT_EQ(record.code, absl::StatusCode::kDeadlineExceeded) << record.message;
          EXPECT_NE(request.deadline, absl::InfiniteFuture());
      }
    }
  };
  std::vector<std::thread> clients;
  for (uint32_t seed = 1; seed <= 8; ++seed) clients.emplace_back(client, seed);
  for (std::thread& thread : clients) thread.join();
  EXPECT_GT(answered, 0);
  DrainAndCheckThatAllIsFree();
  EXPECT_TRUE(loop_->healthy());
}

TEST(EngineOptions, NamesTheSettingToChange) {
  EngineOptions options;
  EXPECT_TRUE(Validate(options).ok());
  options.max_step_tokens = 63;
  EXPECT_NE(Message(Validate(options)).find("--max-step-tokens is 63"), std::string::npos);
  options = EngineOptions();
  options.max_sequences = 0;
  EXPECT_NE(Message(Validate(options)).find("--max-sequences is 0"), std::string::npos);
  options = EngineOptions();
  options.plans_ahead = 0;
  EXPECT_NE(Message(Validate(options)).find("--plans-ahead is 0"), std::string::npos);
  options = EngineOptions();
  options.max_queued_tokens = 0;
  EXPECT_EQ(Validate(options).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace penstock
