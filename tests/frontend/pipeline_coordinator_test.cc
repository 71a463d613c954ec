#include "frontend/pipeline_coordinator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>

#include "tests/support/fake_stage.h"

namespace penstock {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);

// What the observer is told.
class Watcher : public EngineObserver {
 public:
  void OnBeat(int32_t, const StageBeat&) override { ++beats; }
  void OnStageLost(int32_t stage, const absl::Status& status) override {
    lost.emplace_back(stage, Message(status));
  }
  int64_t beats = 0;
  std::vector<std::pair<int32_t, std::string>> lost;
};

// A coordinator over fake stages, in virtual time.
class PipelineCoordinatorTest : public testing::Test {
 protected:
  void Make(int32_t num_stages) {
    pipeline_ = std::make_shared<FakePipeline>(FakeModelOptions{}, num_stages);
    options_.layers.clear();
    for (int32_t stage = 0; stage < num_stages; ++stage) {
      options_.layers.push_back({stage, stage + 1});
    }
    Remake();
  }
  void Remake() {
    coordinator_ =
        std::make_unique<PipelineCoordinator>(pipeline_->MakeProvider(), options_, &watcher_);
    coordinator_->Start(now_);
  }
  // Time passes; stages beat, and work if `work` says so.
  void Pass(absl::Duration time, bool work = true) {
    for (const absl::Time until = now_ + time; now_ < until;) {
      now_ += kTick;
      pipeline_->BeatAll();
      if (work) pipeline_->Run();
      coordinator_->Advance(now_);
    }
  }
  void UntilReady() {
    for (int i = 0; i < 200 && coordinator_->state() != PipelineState::kReady; ++i) Pass(kTick);
    ASSERT_EQ(coordinator_->state(), PipelineState::kReady) << coordinator_->status();
  }
  void Start(int32_t num_stages) {
    Make(num_stages);
    UntilReady();
  }
  // The next plan: one more token of the one sequence, or, of a new epoch, its prompt.
  void Submit(int64_t predicted_ns = 1000) {
    StepPlan plan;
    plan.number = ++number_;
    if (epoch_ != coordinator_->epoch()) {
      epoch_ = coordinator_->epoch();
      position_ = 0;
      ++generation_;
      Admission& admission = plan.admissions.emplace_back();
      admission.generation = generation_;
      admission.prompt_tokens = 1000;
    }
    PlanRow& row = plan.rows.emplace_back();
    row.generation = generation_;
    row.position = position_++;
    row.tokens = {5};
    for (int32_t block = 0; block < BlocksFor(position_); ++block) row.blocks.push_back(block);
    coordinator_->Submit(std::move(plan), predicted_ns, now_);
  }
  int64_t TakeAll() {
    int64_t taken = 0;
    while (coordinator_->Take()) ++taken;
    return taken;
  }
  // Kills of, and connections to, each stage.
  std::vector<int64_t> Connects() const {
    std::vector<int64_t> connects;
    for (int32_t i = 0; i < pipeline_->num_stages(); ++i) {
      connects.push_back(pipeline_->connects(i));
    }
    return connects;
  }

  absl::Time now_ = absl::FromUnixSeconds(1000);
  PipelineOptions options_;
  Watcher watcher_;
  std::shared_ptr<FakePipeline> pipeline_;
  std::unique_ptr<PipelineCoordinator> coordinator_;
  uint64_t number_ = 0;
  uint32_t epoch_ = 0;
  uint32_t generation_ = 0;
  int64_t position_ = 0;
};

using Connections = std::vector<int64_t>;

TEST_F(PipelineCoordinatorTest, LoadsEveryStageThenBeginsTheFirstEpoch) {
  Make(3);
  pipeline_->SetInfo(1, [](StageInfo& info) { info.num_blocks = 7; });
  std::vector<LoadProgress> told;
  coordinator_->SetProgress([&](const LoadProgress& progress) { told.push_back(progress); });
  for (int32_t stage : {0, 2}) pipeline_->Step(stage);
  coordinator_->Advance(now_);
  EXPECT_EQ(coordinator_->state(), PipelineState::kLoading);
  EXPECT_EQ(pipeline_->start(0).epoch, 0u);
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[1].done, 2);
  UntilReady();
  EXPECT_EQ(coordinator_->info().num_blocks, 7);
  for (int32_t stage = 0; stage < 3; ++stage) {
    EXPECT_EQ(pipeline_->load(stage).stage, stage);
    EXPECT_EQ(pipeline_->load(stage).num_stages, 3);
    EXPECT_EQ(pipeline_->load(stage).layers.first, stage);
    const EpochStart start = pipeline_->start(stage);
    EXPECT_EQ(start.epoch, 1u);
    EXPECT_EQ(start.first_plan, 1u);
    EXPECT_EQ(start.num_blocks, 7);
    EXPECT_EQ(start.next, stage == 2 ? "" : absl::StrCat("fake:", stage + 1));
    EXPECT_EQ(start.first, stage == 2 ? "fake:0" : "");
  }
}

TEST_F(PipelineCoordinatorTest, EpochsAreAboveAllThatTheWorkersHaveHad) {
  Make(2);
  pipeline_->SetInfo(0, [](StageInfo& info) { info.last_epoch = 41; });
  pipeline_->SetInfo(1, [](StageInfo& info) { info.last_epoch = 6999; });
  UntilReady();
  const auto epochs = [&] {
    return std::pair(pipeline_->start(0).epoch, pipeline_->start(1).epoch);
  };
  EXPECT_EQ(epochs(), std::pair(7000u, 7000u));
  const auto lose_first = [&] {
    pipeline_->Die(0);
    Pass(absl::Seconds(1));
    UntilReady();
  };
  lose_first();
  EXPECT_EQ(epochs(), std::pair(7001u, 7001u));
  // The one that takes its place has served others meanwhile.
  pipeline_->SetInfo(0, [](StageInfo& info) { info.last_epoch = 8000; });
  lose_first();
  EXPECT_EQ(epochs(), std::pair(8001u, 8001u));
}

TEST_F(PipelineCoordinatorTest, AStageThatWillNotLoadIsAnErrorAndNotTriedAgain) {
  Make(2);
  pipeline_->RefuseLoad(1, absl::NotFoundError("model.gguf: no such file"));
  Pass(absl::Seconds(5));
  EXPECT_EQ(coordinator_->state(), PipelineState::kFailed);
  EXPECT_EQ(coordinator_->status(), absl::NotFoundError("stage 1: model.gguf: no such file"));
  EXPECT_EQ(Connects(), (Connections{1, 1}));
  EXPECT_FALSE(pipeline_->connected(0));
}

TEST_F(PipelineCoordinatorTest, StagesOfTwoModelsAreAnError) {
  Make(2);
  pipeline_->SetInfo(1, [](StageInfo& info) { info.model_hash = 43; });
  Pass(absl::Seconds(1));
  EXPECT_EQ(coordinator_->state(), PipelineState::kFailed);
  EXPECT_NE(Message(coordinator_->status()).find("another model"), std::string::npos);
  EXPECT_NE(Message(coordinator_->status()).find("000000000000002b"), std::string::npos)
      << coordinator_->status();
}

TEST_F(PipelineCoordinatorTest, OtherLayersThanAskedForAreAnError) {
  Make(2);
  pipeline_->SetInfo(0, [](StageInfo& info) { info.layers.last = 2; });
  Pass(absl::Seconds(1));
  EXPECT_EQ(coordinator_->state(), PipelineState::kFailed);
  EXPECT_NE(Message(coordinator_->status()).find("layers 0 to 2"), std::string::npos);
}

TEST_F(PipelineCoordinatorTest, LoadingMayTakeLongButNotStandStill) {
  Make(1);
  for (int i = 0; i < 4; ++i) {
    Pass(absl::Minutes(4), /*work=*/false);
    pipeline_->Tell(0, LoadProgress{i, 10, "a tensor"});
  }
  EXPECT_EQ(coordinator_->state(), PipelineState::kLoading);
  Pass(absl::Minutes(6), /*work=*/false);
  EXPECT_EQ(coordinator_->state(), PipelineState::kFailed);
  EXPECT_NE(Message(coordinator_->status()).find("no progress"), std::string::npos);
}

TEST_F(PipelineCoordinatorTest, AStageThatStopsBeatingWhileItLoadsIsReplaced) {
  Start(2);
  pipeline_->Die(1);
  coordinator_->Advance(now_);
  pipeline_->Beat(1);
  coordinator_->Advance(now_);
  pipeline_->Hang(1);
  Pass(absl::Milliseconds(1900));
  EXPECT_EQ(pipeline_->connects(1), 2);
  Pass(absl::Milliseconds(600));
  EXPECT_EQ(pipeline_->connects(1), 3);
}

TEST_F(PipelineCoordinatorTest, EveryStageGetsEveryPlanAndResultsComeInOrder) {
  Start(3);
  EXPECT_FALSE(coordinator_->Take().has_value());
  Submit();
  Submit(1'000'000'000);
  EXPECT_EQ(coordinator_->num_in_flight(), 2);
  for (int32_t stage = 0; stage < 3; ++stage) {
    const std::vector<StepPlan> plans = pipeline_->plans(stage);
    ASSERT_EQ(plans.size(), 2u);
    EXPECT_EQ(plans[0].epoch, 1u);
    EXPECT_EQ(plans[0].limit_ns, 1'000'000'000);  // the least
    EXPECT_EQ(plans[1].limit_ns, 20'000'000'000);
  }
  pipeline_->Step(0);
  pipeline_->Step(1);
  coordinator_->Advance(now_);
  EXPECT_FALSE(coordinator_->Take().has_value());
  pipeline_->Run();
  coordinator_->Advance(now_);
  for (uint64_t number : {1, 2}) EXPECT_EQ(coordinator_->Take()->number, number);
  EXPECT_EQ(coordinator_->num_in_flight(), 0);
  const std::vector<StageRecord> records = coordinator_->TakeRecords();
  ASSERT_EQ(records.size(), 6u);
  EXPECT_EQ(std::count_if(records.begin(), records.end(),
                          [](const StageRecord& record) { return record.stage == 1; }),
            2);
  EXPECT_EQ(records[0].tokens, 1);
  EXPECT_EQ(records[0].times.compute_ns, 1000);
}

TEST_F(PipelineCoordinatorTest, WakesTheEngine) {
  Start(1);
  Submit();
  coordinator_->wakeup()->Wait(absl::ZeroDuration());  // of what was before
  std::thread stage([this] { pipeline_->Run(); });
  coordinator_->wakeup()->Wait(absl::InfiniteDuration());
  stage.join();
  coordinator_->Advance(now_);
  EXPECT_TRUE(coordinator_->Take().has_value());
}

TEST_F(PipelineCoordinatorTest, ADeadStageIsReplacedAndTheOthersStayLoaded) {
  for (int32_t dead = 0; dead < 3; ++dead) {
    Start(3);
    number_ = 0;
    epoch_ = 0;
    Submit();
    Submit();
    pipeline_->Step(0);
    coordinator_->Advance(now_);
    pipeline_->Die(dead);
    coordinator_->Advance(now_);
    EXPECT_EQ(coordinator_->state(), PipelineState::kRecovering);
    EXPECT_EQ(coordinator_->num_in_flight(), 0);
    const auto end = coordinator_->TakeEpochEnd();
    ASSERT_TRUE(end.has_value());
    EXPECT_EQ(end->status, absl::UnavailableError(absl::StrCat("stage ", dead, ": killed")));
    EXPECT_FALSE(coordinator_->TakeEpochEnd().has_value());
    UntilReady();
    Connections connects{1, 1, 1};
    connects[static_cast<size_t>(dead)] = 2;
    EXPECT_EQ(Connects(), connects);
    EXPECT_EQ(pipeline_->load(dead).model_hash, 42u);
    EXPECT_EQ(pipeline_->load(dead).num_blocks, coordinator_->info().num_blocks);
    for (int32_t stage = 0; stage < 3; ++stage) {
      EXPECT_EQ(pipeline_->start(stage).epoch, 2u);
      EXPECT_EQ(pipeline_->start(stage).first_plan, 3u);
    }
    Submit();
    Pass(kTick);
    EXPECT_EQ(TakeAll(), 1);
  }
}

TEST_F(PipelineCoordinatorTest, WhatHadComeBeforeTheEndOfAnEpochCanBeTaken) {
  Start(2);
  Submit();
  Submit();
  for (int32_t stage : {0, 1, 0}) pipeline_->Step(stage);
  pipeline_->Die(0);
  coordinator_->Advance(now_);
  EXPECT_EQ(coordinator_->num_in_flight(), 1);
  EXPECT_EQ(TakeAll(), 1);
  EXPECT_TRUE(coordinator_->TakeEpochEnd().has_value());
}

TEST_F(PipelineCoordinatorTest, ResultsOfAnEpochThatIsOverAreDropped) {
  Start(2);
  Submit();
  pipeline_->Step(0);
  pipeline_->Die(0);
  coordinator_->Advance(now_);
  (void)coordinator_->TakeEpochEnd();
  StepResult late;
  late.number = 1;
  late.epoch = 1;
  pipeline_->Tell(1, late);
  coordinator_->Advance(now_);
  UntilReady();
  pipeline_->Tell(1, late);
  coordinator_->Advance(now_);
  EXPECT_EQ(TakeAll(), 0);
  EXPECT_EQ(coordinator_->state(), PipelineState::kReady);
}

TEST_F(PipelineCoordinatorTest, ADeathBeforeTheEpochIsEnteredOnlyDelaysIt) {
  Make(3);
  while (pipeline_->start(0).epoch == 0) Pass(kTick);
  pipeline_->Die(1);
  UntilReady();
  EXPECT_FALSE(coordinator_->TakeEpochEnd().has_value());
  EXPECT_EQ(Connects(), (Connections{1, 2, 1}));
}

TEST_F(PipelineCoordinatorTest, AStoppedStageIsKnownByItsMissingBeats) {
  options_.min_plan_limit = absl::Seconds(10);
  Start(3);
  Submit();
  Pass(kTick, /*work=*/false);
  pipeline_->Hang(1);
  Pass(absl::Milliseconds(1900));
  EXPECT_EQ(coordinator_->state(), PipelineState::kReady);
  Pass(absl::Milliseconds(600), /*work=*/false);
  EXPECT_EQ(coordinator_->state(), PipelineState::kRecovering);
  ASSERT_EQ(watcher_.lost.size(), 1u);
  EXPECT_EQ(watcher_.lost[0].first, 1);
  EXPECT_EQ(pipeline_->kills(1), 1);
  (void)coordinator_->TakeEpochEnd();
  UntilReady();
}

TEST_F(PipelineCoordinatorTest, AStageWithoutWorkMayBeSilent) {
  Start(2);
  Pass(kTick);
  pipeline_->Hang(1);
  Pass(absl::Minutes(1));
  EXPECT_EQ(coordinator_->state(), PipelineState::kReady);
}

// The limit of plan and the missing beats tell the same: here the limit is first.
TEST_F(PipelineCoordinatorTest, TheMostUpstreamStageThatDoesNotWaitIsToBlame) {
  options_.min_plan_limit = absl::Milliseconds(300);
  for (int32_t stuck = 0; stuck < 3; ++stuck) {
    watcher_.lost.clear();
    Start(3);
    number_ = 0;
    epoch_ = 0;
    Pass(kTick);
    pipeline_->Stick(stuck);
    Submit();
    Submit();
    Pass(absl::Milliseconds(600));
    ASSERT_EQ(watcher_.lost.size(), 1u) << stuck;
    EXPECT_EQ(watcher_.lost[0].first, stuck);
    EXPECT_NE(watcher_.lost[0].second.find("plan 1"), std::string::npos) << watcher_.lost[0].second;
    (void)coordinator_->TakeEpochEnd();
    UntilReady();
  }
}

// A downstream stage is the first to say so, and is not the one to blame.
TEST_F(PipelineCoordinatorTest, WhoTellsOfATimeoutIsNotToBlame) {
  Start(3);
  Pass(kTick);
  pipeline_->Stick(0);
  Submit();
  pipeline_->BeatAll();
  coordinator_->Advance(now_);
  pipeline_->FailEpoch(2, absl::DeadlineExceededError("no input"), 1);
  coordinator_->Advance(now_);
  ASSERT_EQ(watcher_.lost.size(), 1u);
  EXPECT_EQ(watcher_.lost[0].first, 0);
}

TEST_F(PipelineCoordinatorTest, AFailedEpochKillsNobody) {
  Start(2);
  Submit();
  pipeline_->FailEpoch(1, absl::FailedPreconditionError("cannot run it"), 1);
  coordinator_->Advance(now_);
  const auto end = coordinator_->TakeEpochEnd();
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->status, absl::FailedPreconditionError("stage 1: cannot run it"));
  UntilReady();
  EXPECT_EQ(Connects(), (Connections{1, 1}));
  EXPECT_TRUE(watcher_.lost.empty());
}

TEST_F(PipelineCoordinatorTest, AStageThatSendsWhatDoesNotFitIsReplaced) {
  Start(2);
  Submit();
  StepResult wrong;
  wrong.number = 7;
  wrong.epoch = 1;
  pipeline_->Tell(0, wrong);
  coordinator_->Advance(now_);
  EXPECT_EQ(coordinator_->TakeEpochEnd()->status.code(), absl::StatusCode::kInternal);
  UntilReady();
  EXPECT_EQ(Connects(), (Connections{2, 1}));
  // Without a plan to answer.
  wrong.epoch = 2;
  pipeline_->Tell(1, wrong);
  coordinator_->Advance(now_);
  EXPECT_NE(Message(coordinator_->TakeEpochEnd()->status).find("without a plan"),
            std::string::npos);
}

TEST_F(PipelineCoordinatorTest, AStageThatRefusesTwoEpochsIsReplaced) {
  Start(2);
  pipeline_->RefuseEpochs(1, 1);
  pipeline_->Die(0);
  coordinator_->Advance(now_);
  (void)coordinator_->TakeEpochEnd();
  UntilReady();
  EXPECT_EQ(Connects(), (Connections{2, 1}));
  pipeline_->RefuseEpochs(1, 2);
  pipeline_->Die(0);
  coordinator_->Advance(now_);
  (void)coordinator_->TakeEpochEnd();
  UntilReady();
  EXPECT_EQ(Connects(), (Connections{3, 2}));
}

TEST_F(PipelineCoordinatorTest, AStageThatDoesNotEnterInTimeIsReplaced) {
  Start(2);
  pipeline_->Stick(1);
  pipeline_->Die(0);
  coordinator_->Advance(now_);
  (void)coordinator_->TakeEpochEnd();
  Pass(absl::Seconds(9));
  EXPECT_EQ(coordinator_->state(), PipelineState::kRecovering);
  Pass(absl::Seconds(2));
  EXPECT_EQ(coordinator_->state(), PipelineState::kReady);
  EXPECT_EQ(Connects(), (Connections{2, 2}));
}

TEST_F(PipelineCoordinatorTest, ACrashLoopIsGivenUp) {
  options_.max_deaths = 3;
  Start(2);
  for (int death = 1; death <= 3; ++death) {
    pipeline_->Die(1);
    coordinator_->Advance(now_);
    ASSERT_TRUE(coordinator_->TakeEpochEnd().has_value());
    UntilReady();
  }
  pipeline_->Die(1);
  coordinator_->Advance(now_);
  EXPECT_EQ(coordinator_->state(), PipelineState::kFailed);
  EXPECT_EQ(coordinator_->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(Message(coordinator_->status()).find("4 times within 1m"), std::string::npos)
      << coordinator_->status();
  EXPECT_TRUE(coordinator_->TakeEpochEnd().has_value());
  Pass(absl::Minutes(1));
  EXPECT_EQ(coordinator_->state(), PipelineState::kFailed);
  EXPECT_FALSE(pipeline_->connected(0));
}

// The neighbours of a dead stage are often the first to tell.
TEST_F(PipelineCoordinatorTest, ADeathThatIsToldTwiceCountsOnce) {
  options_.max_deaths = 3;
  Start(3);
  for (int death = 1; death <= 3; ++death) {
    pipeline_->FailEpoch(1, absl::UnavailableError("the sending stage has closed its end"));
    if (death == 2) coordinator_->Advance(now_);
    pipeline_->Die(0);
    coordinator_->Advance(now_);
    ASSERT_TRUE(coordinator_->TakeEpochEnd().has_value());
    UntilReady();
  }
  // Told once, by nobody but the neighbour, it counts too.
  pipeline_->FailEpoch(1, absl::UnavailableError("the sending stage has closed its end"));
  coordinator_->Advance(now_);
  EXPECT_EQ(coordinator_->state(), PipelineState::kFailed);
}

TEST_F(PipelineCoordinatorTest, DeathsNowAndThenAreNone) {
  options_.max_deaths = 3;
  Start(2);
  for (int death = 1; death <= 8; ++death) {
    pipeline_->Die(1);
    coordinator_->Advance(now_);
    ASSERT_TRUE(coordinator_->TakeEpochEnd().has_value());
    UntilReady();
    Pass(absl::Seconds(25));
  }
}

// A stage that dies while it loads is tried again at growing distances, then given up.
TEST_F(PipelineCoordinatorTest, AStageThatCannotBeHadAgainIsGivenUp) {
  Start(2);
  pipeline_->RefuseLoad(1, absl::UnavailableError("cannot start"));
  pipeline_->Die(1);
  Pass(absl::Seconds(30));
  EXPECT_EQ(coordinator_->state(), PipelineState::kFailed);
  EXPECT_EQ(pipeline_->connects(1), 1 + options_.max_deaths);
  EXPECT_NE(Message(coordinator_->status()).find("cannot start"), std::string::npos);
}

// The machine slept, or this process was stopped: nobody else was late.
TEST_F(PipelineCoordinatorTest, NobodyIsBlamedForTimeInWhichNobodyLooked) {
  Start(2);
  Pass(kTick);
  Submit();
  now_ += absl::Hours(1);
  coordinator_->Advance(now_);
  EXPECT_EQ(coordinator_->state(), PipelineState::kReady);
  Pass(kTick);
  EXPECT_EQ(TakeAll(), 1);
}

TEST_F(PipelineCoordinatorTest, ASmallerReplacementIsRefused) {
  Start(1);
  pipeline_->SetInfo(0, [](StageInfo& info) { --info.num_blocks; });
  pipeline_->Die(0);
  Pass(absl::Seconds(1));
  EXPECT_EQ(coordinator_->state(), PipelineState::kRecovering);
  EXPECT_NE(Message(coordinator_->status()).find("room for 31 KV blocks and the pipeline has 32"),
            std::string::npos)
      << coordinator_->status();
}

TEST_F(PipelineCoordinatorTest, TheFlightRecorderTellsOfAnEpochThatEndedBadly) {
  Make(2);
  std::vector<FlightRecord> told;
  coordinator_->SetFlightRecorder(std::make_unique<FlightRecorder>(
      3, [&](FlightRecord record) { told.push_back(std::move(record)); }));
  UntilReady();
  for (int i = 0; i < 4; ++i) {
    Submit();
    Pass(kTick);
    TakeAll();
  }
  Submit();
  pipeline_->Die(1);
  coordinator_->Advance(now_);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].epoch, 1u);
  EXPECT_EQ(told[0].model_hash, 42u);
  EXPECT_EQ(told[0].reason, "stage 1: killed");
  ASSERT_EQ(told[0].entries.size(), 3u);
  EXPECT_EQ(told[0].entries[0].plan.number, 3u);
  EXPECT_EQ(told[0].entries[0].result->number, 3u);
  EXPECT_FALSE(told[0].entries[2].result.has_value());
}

TEST_F(PipelineCoordinatorTest, EndsWithPlansInFlight) {
  Start(2);
  Submit();
  coordinator_.reset();
  EXPECT_FALSE(pipeline_->connected(0));
}

}  // namespace
}  // namespace penstock
