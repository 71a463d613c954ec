#include "frontend/engine.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/support/virtual_engine.h"

namespace penstock {
namespace {

// Keeps what the engine tells.
class Records : public EngineObserver {
 public:
  void OnRequest(const RequestRecord& record) override { requests.push_back(record); }
  void OnTokenGap(absl::Duration gap) override { gaps.push_back(gap); }
  void OnFirstToken(absl::Duration time) override { first_tokens.push_back(time); }
  void OnPlan(uint64_t, int64_t, int64_t tokens) override {
    ++plans;
    plan_tokens += tokens;
  }
  void OnStage(const StageRecord& record) override { stages.push_back(record); }
  void OnBeat(int32_t, const StageBeat&) override { ++beats; }
  void OnPreemption(RequestId id) override { preempted.push_back(id); }
  void OnPrefixLookup(int64_t tokens, int64_t hit) override {
    lookups += tokens;
    hits += hit;
  }
  void OnStageLost(int32_t stage, const absl::Status&) override { lost.push_back(stage); }
  void OnRecovered(absl::Duration time) override { recovered.push_back(time); }
  void OnGauges(const EngineGauges& gauges) override { gauged.push_back(gauges); }

  std::vector<RequestRecord> requests;
  std::vector<absl::Duration> gaps;
  std::vector<absl::Duration> first_tokens;
  int64_t plans = 0;
  int64_t plan_tokens = 0;
  std::vector<StageRecord> stages;
  int64_t beats = 0;
  std::vector<RequestId> preempted;
  int64_t lookups = 0;
  int64_t hits = 0;
  std::vector<int32_t> lost;
  std::vector<absl::Duration> recovered;
  std::vector<EngineGauges> gauged;
};

class EngineTest : public testing::Test {
 protected:
  static constexpr int32_t kPoison = 49;

  EngineTest() {
    model_.num_blocks = 64;
    options_.plans_ahead = 4;
  }

  void Start(int32_t num_stages) {
    records_ = Records();
    engine_ = std::make_unique<VirtualEngine>(model_, num_stages, options_, pipeline_, &records_);
  }
  // A request whose answer has `max_tokens` tokens; `first` makes it another.
  GenerationRequest Request(int64_t max_tokens, int32_t first = 3, int64_t prompt = 5) {
    GenerationRequest request;
    request.prompt.assign(static_cast<size_t>(prompt), 2);
    request.prompt[0] = first;
    request.max_tokens = max_tokens;
    // The poison of these tests never comes up by itself.
    for (request.sampling.seed = 1;; ++request.sampling.seed) {
      const std::vector<int32_t> alone =
          FakeModel(model_).Alone(request.prompt, max_tokens, request.sampling.seed, {});
      if (std::count(alone.begin(), alone.end(), kPoison) == 0) return request;
    }
  }
  void ExpectWhole(const RecordingSink& sink, const GenerationRequest& request) {
    const RecordingSink::Record record = sink.record();
    EXPECT_TRUE(record.finished);
    EXPECT_EQ(record.code, absl::StatusCode::kOk) << record.message;
    EXPECT_EQ(record.tokens, engine_->Alone(request));
    EXPECT_EQ(record.breaches, 0);
  }

  FakeModelOptions model_;
  EngineOptions options_;
  PipelineOptions pipeline_;
  Records records_;
  std::unique_ptr<VirtualEngine> engine_;
};

// After every number of steps of the stages, each of them.
TEST_F(EngineTest, AStageThatDiesAtAnyMomentLosesNoToken) {
  for (int32_t dead = 0; dead < 3; ++dead) {
    for (int steps = 0; steps < 30; ++steps) {
      SCOPED_TRACE(absl::StrCat("stage ", dead, " after ", steps, " steps"));
      Start(3);
      std::vector<GenerationRequest> requests;
      std::vector<std::shared_ptr<RecordingSink>> sinks;
      for (int32_t i = 0; i < 3; ++i) {
        requests.push_back(Request(6 + i, i, 40 * i + 1));
        sinks.push_back(engine_->Submit(requests.back()));
      }
      requests[1].sampling.frequency_penalty = 0.5f;
      engine_->Turn();
      for (int i = 0; i < steps; ++i) {
        engine_->stages().Step(i % 3);
        if (i % 4 == 0) engine_->Turn();
      }
      engine_->stages().Die(dead);
      engine_->Pass(absl::Seconds(2));
      for (size_t i = 0; i < 3; ++i) ExpectWhole(*sinks[i], requests[i]);
      EXPECT_TRUE(engine_->AllIsFree());
      EXPECT_TRUE(engine_->stages().broken_rule().ok()) << engine_->stages().broken_rule();
      EXPECT_TRUE(engine_->engine().ready());
    }
  }
}

TEST_F(EngineTest, DepthOneIsTheSame) {
  options_.plans_ahead = 1;
  Start(2);
  const GenerationRequest request = Request(20);
  const auto sink = engine_->Submit(request);
  engine_->Settle(true, 9);
  engine_->stages().Die(1);
  engine_->Pass(absl::Seconds(1));
  ExpectWhole(*sink, request);
}

TEST_F(EngineTest, AHangingStageLosesNoToken) {
  Start(3);
  const GenerationRequest request = Request(30);
  const auto sink = engine_->Submit(request);
  engine_->Settle(true, 10);
  engine_->stages().Hang(1);
  engine_->Pass(absl::Seconds(4));
  ExpectWhole(*sink, request);
  EXPECT_EQ(records_.lost, std::vector<int32_t>{1});
}

TEST_F(EngineTest, ReadyIsFalseFromTheLossUntilATokenCame) {
  Start(2);
  EXPECT_TRUE(engine_->engine().ready());
  const auto sink = engine_->Submit(Request(30));
  engine_->Settle(true, 8);
  engine_->stages().Die(0);
  engine_->Turn();
  EXPECT_FALSE(engine_->engine().ready());
  while (engine_->coordinator().state() != PipelineState::kReady) {
    engine_->stages().Step(0);
    engine_->stages().Step(1);
    engine_->Turn();
  }
  EXPECT_FALSE(engine_->engine().ready());
  engine_->MoveClock(absl::Milliseconds(70));
  const size_t tokens = sink->record().tokens.size();
  while (sink->record().tokens.size() == tokens) {
    EXPECT_FALSE(engine_->engine().ready());
    engine_->stages().Step(0);
    engine_->stages().Step(1);
    engine_->Turn();
  }
  EXPECT_TRUE(engine_->engine().ready());
  ASSERT_EQ(records_.recovered.size(), 1u);
  EXPECT_EQ(records_.recovered[0], absl::Milliseconds(70));
}

TEST_F(EngineTest, WithoutRequestsAProbeMakesItReadyAgain) {
  Start(2);
  engine_->stages().Die(1);
  engine_->Turn();
  EXPECT_FALSE(engine_->engine().ready());
  engine_->Pass(absl::Milliseconds(500));
  EXPECT_TRUE(engine_->engine().ready());
  EXPECT_EQ(engine_->stages().submitted(), 1);
  EXPECT_TRUE(records_.requests.empty());
  EXPECT_EQ(engine_->engine().stats().generated_tokens, 0);
  EXPECT_TRUE(engine_->AllIsFree());
  // And a probe that is lost itself is asked again.
  engine_->stages().Die(1);
  engine_->Turn();
  while (engine_->stages().submitted() == 1) {
    engine_->Pass(VirtualEngine::kTick, /*work=*/false);
    for (int32_t stage : {0, 1}) {
      if (engine_->stages().plans(stage).empty()) engine_->stages().Step(stage);
    }
  }
  engine_->stages().Die(0);
  engine_->Pass(absl::Seconds(3));
  EXPECT_TRUE(engine_->engine().ready());
  EXPECT_TRUE(engine_->AllIsFree());
}

TEST_F(EngineTest, ThePoisonousRequestEndsAloneAndTheOthersGoOn) {
  Start(2);
  engine_->stages().SetPoison(kPoison, 1);
  std::vector<GenerationRequest> sound;
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int32_t i = 0; i < 4; ++i) {
    sound.push_back(Request(40, i));
    sinks.push_back(engine_->Submit(sound.back()));
  }
  const auto bad = engine_->Submit(Request(10, kPoison));
  engine_->Pass(absl::Seconds(20));
  for (size_t i = 0; i < 4; ++i) ExpectWhole(*sinks[i], sound[i]);
  const RecordingSink::Record record = bad->record();
  EXPECT_EQ(record.reason, FinishReason::kError);
  EXPECT_EQ(record.code, absl::StatusCode::kInternal);
  EXPECT_NE(record.message.find("not tried any more"), std::string::npos) << record.message;
  EXPECT_EQ(records_.lost.size(), 3u);
  EXPECT_TRUE(engine_->AllIsFree());
  EXPECT_TRUE(engine_->engine().ready());
}

// Stages die at random; a long stream is there at many deaths and is no suspect for ever.
TEST_F(EngineTest, WhoGetsPastADeathIsClearedOfIt) {
  model_.vocab_size = 40;  // no poison
  Start(2);
  const GenerationRequest request = Request(900);
  const auto sink = engine_->Submit(request);
  for (int death = 0; death < 8; ++death) {
    engine_->Settle(true, 60);
    engine_->stages().Die(death % 2);
    engine_->Turn();
    engine_->MoveClock(absl::Seconds(1));
    engine_->Turn();
    for (int i = 0; i < 25; ++i) {  // so that they are no crash loop
      engine_->stages().BeatAll();
      engine_->MoveClock(absl::Milliseconds(900));
      engine_->Turn();
    }
  }
  engine_->Pass(absl::Seconds(2));
  ExpectWhole(*sink, request);
  EXPECT_EQ(records_.lost.size(), 8u);
  EXPECT_EQ(records_.requests.at(0).recoveries, 8);
}

TEST_F(EngineTest, ACrashLoopEndsEveryRequestUnavailable) {
  pipeline_.max_deaths = 2;
  Start(2);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int32_t i = 0; i < 12; ++i) sinks.push_back(engine_->Submit(Request(100, i)));
  for (int death = 0; death < 3; ++death) {
    engine_->Settle(true, 12);
    engine_->stages().Die(1);
  }
  engine_->Turn();
  EXPECT_FALSE(engine_->engine().alive());
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->record().code, absl::StatusCode::kUnavailable);
    EXPECT_NE(sink->record().message.find("3 times within"), std::string::npos);
  }
  const auto late = engine_->Submit(Request(5));
  engine_->Turn();
  EXPECT_EQ(late->record().code, absl::StatusCode::kUnavailable);
  EXPECT_TRUE(engine_->AllIsFree());
}

TEST_F(EngineTest, ARecoveryThatOutlastsACallEndsThatCallOnly) {
  Start(2);
  GenerationRequest hurried = Request(20, 1);
  hurried.deadline = engine_->now() + absl::Seconds(3);
  const GenerationRequest patient = Request(20, 2);
  const auto first = engine_->Submit(hurried);
  const auto second = engine_->Submit(patient);
  engine_->Settle(true, 8);
  engine_->stages().Die(0);
  engine_->Pass(absl::Seconds(4), /*work=*/false);
  EXPECT_EQ(first->record().code, absl::StatusCode::kUnavailable);
  EXPECT_NE(first->record().message.find("time limit passed before it was there again"),
            std::string::npos)
      << first->record().message;
  EXPECT_FALSE(second->record().finished);
  engine_->Pass(absl::Seconds(1));
  ExpectWhole(*second, patient);
}

TEST_F(EngineTest, ARequestThatComesDuringARecoveryWaits) {
  Start(2);
  engine_->stages().Die(0);
  engine_->Turn();
  const GenerationRequest request = Request(5);
  const auto sink = engine_->Submit(request);
  engine_->Turn();
  engine_->Pass(absl::Seconds(1));
  ExpectWhole(*sink, request);
}

TEST_F(EngineTest, AbortFreesAtOnceWhatIsInFlight) {
  Start(2);
  const auto sink = std::make_shared<RecordingSink>();
  const RequestId id = engine_->Submit(Request(50), sink);
  engine_->Settle(true, 6);
  EXPECT_GT(engine_->coordinator().num_in_flight(), 0);
  engine_->Abort(id);
  engine_->Turn();
  EXPECT_EQ(sink->record().code, absl::StatusCode::kCancelled);
  EXPECT_TRUE(engine_->AllIsFree());
  // Its slot and blocks serve the next one while its rows are still on their way.
  const GenerationRequest next = Request(20, 9);
  const auto second = engine_->Submit(next);
  engine_->Settle();
  ExpectWhole(*second, next);
  EXPECT_TRUE(engine_->stages().broken_rule().ok()) << engine_->stages().broken_rule();
}

TEST_F(EngineTest, ARequestMayBeAbortedBeforeItIsAdded) {
  Start(1);
  const auto sink = std::make_shared<RecordingSink>();
  engine_->Abort(engine_->Submit(Request(5), sink));
  engine_->Settle();
  EXPECT_EQ(sink->record().code, absl::StatusCode::kCancelled);
  EXPECT_EQ(engine_->stages().submitted(), 0);
}

TEST_F(EngineTest, TheObserverIsToldOfEverything) {
  Start(2);
  GenerationRequest request = Request(5, 3, 70);
  const auto sink = std::make_shared<RecordingSink>();
  engine_->MoveClock(absl::Seconds(1));
  engine_->Submit(request, sink);
  engine_->Turn();
  engine_->MoveClock(absl::Milliseconds(300));
  while (sink->record().tokens.empty()) engine_->Settle(true, 1);
  while (!sink->record().finished) {
    engine_->MoveClock(absl::Milliseconds(20));
    engine_->Settle(true, 1);
  }
  ASSERT_EQ(records_.requests.size(), 1u);
  const RequestRecord& record = records_.requests[0];
  EXPECT_EQ(record.id, 1);
  EXPECT_EQ(record.reason, FinishReason::kLength);
  EXPECT_EQ(record.code, absl::StatusCode::kOk);
  EXPECT_EQ(record.prompt_tokens, 70);
  EXPECT_EQ(record.generated_tokens, 5);
  EXPECT_EQ(record.max_tokens, 5);
  EXPECT_EQ(record.recoveries, 0);
  EXPECT_EQ(record.arrived, absl::FromUnixSeconds(1001));
  EXPECT_EQ(record.started, record.arrived);
  EXPECT_EQ(record.first_token, record.arrived + absl::Milliseconds(300));
  EXPECT_GT(record.finished, record.first_token);
  EXPECT_EQ(records_.first_tokens, std::vector<absl::Duration>{absl::Milliseconds(300)});
  EXPECT_EQ(records_.gaps.size(), 4u);
  absl::Duration sum;
  for (absl::Duration gap : records_.gaps) sum += gap;
  EXPECT_EQ(sum, record.finished - record.first_token);
  engine_->Settle();
  EXPECT_EQ(records_.plans, engine_->stages().submitted());
  EXPECT_EQ(records_.plan_tokens, 70 + 4);
  EXPECT_EQ(static_cast<int64_t>(records_.stages.size()), 2 * records_.plans);
  int64_t prefill = 0;
  for (const StageRecord& one : records_.stages) prefill += one.prefill_tokens;
  EXPECT_EQ(prefill, 2 * 70);
  engine_->Pass(absl::Milliseconds(200));
  EXPECT_EQ(records_.beats, 4);
  const EngineGauges& gauges = records_.gauged.back();
  EXPECT_EQ(gauges.state, PipelineState::kReady);
  EXPECT_EQ(gauges.running, 0);
  EXPECT_EQ(gauges.blocks_total, 64);
  EXPECT_EQ(gauges.blocks_used, 0);
  EXPECT_EQ(gauges.epoch, 1u);
}

TEST_F(EngineTest, APromptIsFoundInTheCacheOfItsTenantAlone) {
  Start(2);
  GenerationRequest request = Request(4, 3, 200);
  for (const char* tenant : {"a", "a", "b", "", "a"}) {
    request.tenant = tenant;
    const auto sink = engine_->Submit(request);
    engine_->Settle();
    ExpectWhole(*sink, request);
  }
  std::vector<int64_t> cached;
  for (const RequestRecord& record : records_.requests) cached.push_back(record.cached_tokens);
  EXPECT_EQ(cached, (std::vector<int64_t>{0, 192, 0, 0, 192}));
  EXPECT_EQ(records_.hits, 2 * 192);
  EXPECT_GE(records_.lookups, 5 * 192);
  engine_->MoveClock(absl::Seconds(1));
  engine_->Turn();
  EXPECT_GT(records_.gauged.back().blocks_cached, 0);
  EXPECT_EQ(records_.gauged.back().blocks_used, 0);
  // A new epoch has an empty cache.
  engine_->stages().Die(0);
  engine_->Pass(absl::Seconds(1));
  const auto sink = engine_->Submit(request);
  engine_->Settle();
  ExpectWhole(*sink, request);
  EXPECT_EQ(records_.requests.back().cached_tokens, 0);
}

TEST_F(EngineTest, GaugesAreToldAtMostEveryFiftyMilliseconds) {
  Start(1);
  engine_->Submit(Request(5));
  engine_->Settle();
  const size_t told = records_.gauged.size();
  EXPECT_LE(told, 1u);
  // What was left out is told as soon as it may be.
  EXPECT_EQ(engine_->engine().NextTime(), engine_->now() + absl::Milliseconds(50));
  engine_->MoveClock(absl::Milliseconds(50));
  engine_->Turn();
  EXPECT_EQ(records_.gauged.size(), told + 1);
}

}  // namespace
}  // namespace penstock
