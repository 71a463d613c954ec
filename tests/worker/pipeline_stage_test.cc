// A stage among its neighbours when things go wrong: plans it cannot run, inputs that do not come,
// neighbours that die, epochs that change while something waits, stages that are given up.
#include "worker/pipeline_stage.h"

#include <chrono>
#include <future>
#include <thread>

#include "tests/support/drive.h"
#include "tests/support/fake_executor.h"
#include "tests/support/local_pipeline.h"
#include "tests/support/nccl_endpoint.h"
#include "tests/support/tiny_model.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr int64_t kMillisecond = 1'000'000;  // ns
constexpr int64_t kPatience = 100'000'000'000;

StepPlan Plan(uint64_t number, uint32_t epoch, uint64_t first = 1) {
  StepPlan plan;
  plan.number = number;
  plan.epoch = epoch;
  if (number == first) plan.admissions = {{0, epoch, {}, 1, {}}};
  PlanRow row;
  row.generation = epoch;
  row.position = static_cast<int64_t>(number - first);
  row.tokens = {static_cast<int32_t>(7 + row.position)};
  row.blocks = {1};
  row.sample = true;
  plan.rows = {row};
  return plan;
}

// Feeds what the plan before has sampled.
StepPlan PlanAhead(uint64_t number, uint32_t epoch) {
  StepPlan plan = Plan(number, epoch);
  plan.rows[0].tokens = {kNoToken};
  plan.rows[0].token_from = number - 1;
  return plan;
}

// Until the stage is at it. There is no other way to see that a wait has begun.
void WaitFor(const PipelineStage& stage, uint64_t plan, StageBeat::Doing doing) {
  while (true) {
    const StageBeat beat = stage.beat();
    if (beat.current == plan && beat.doing == doing) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// What goes between the stages goes by lanes of the host, by mail, or by a stand-in for NCCL.
enum class By { kHost, kMail, kNccl };

class PipelineStageTest : public ::testing::TestWithParam<By> {
 protected:
  static bool by_mail() { return GetParam() == By::kMail; }
  std::unique_ptr<LocalPipeline> Make(const std::vector<int64_t>& cuts,
                                      const TransportOptions& transport = {},
                                      int32_t plans_ahead = 4) const {
    StageOptions options;
    options.model = file_.path();
    options.kv_memory_bytes = 1 << 20;
    options.max_step_tokens = 16;
    options.max_sequences = 4;
    options.threads = 1;
    options.plans_ahead = plans_ahead;
    options.device_mail = by_mail();
    options.nccl = GetParam() == By::kNccl;
    // Of one token's rows, as many as the window has transfers; else enough.
    constexpr int64_t kRowBytes = 64 * 4;
    options.mailbox_bytes = !by_mail() ? 0 : std::min<int64_t>(transport.window, 16) * kRowBytes;
    return std::make_unique<LocalPipeline>(options, Split(4, cuts), transport);
  }
  // The pipeline runs plans of this epoch, from its start on.
  static void ExpectWorks(LocalPipeline& pipeline, uint32_t epoch, uint64_t first) {
    for (uint64_t number = first; number < first + 3; ++number) {
      pipeline.Submit(Plan(number, epoch, first));
    }
    for (uint64_t number = first; number < first + 3; ++number) {
      const auto result = pipeline.Next();
      ASSERT_TRUE(IsOk(result));
      EXPECT_EQ(result->number, number);
      EXPECT_EQ(result->epoch, epoch);
      ASSERT_EQ(result->samples.size(), 1u);
      EXPECT_GE(result->samples[0].token, 0);
    }
  }

  const ScopedVariable library_{"PENSTOCK_NCCL_LIBRARY", PENSTOCK_FAKE_NCCL};
  const TempFile file_{TinyModel(2, false, 4).Build()};
};

TEST_P(PipelineStageTest, AnswersEveryPlanOnEveryStage) {
  const auto pipeline = Make({1, 2});
  pipeline->BeginEpoch(1, 5);
  ExpectWorks(*pipeline, 1, 5);
  for (size_t i = 0; i < 3; ++i) {
    const StageBeat beat = pipeline->stage(i).beat();
    EXPECT_EQ(beat.epoch, 1u);
    EXPECT_EQ(beat.done, 7u);
    EXPECT_EQ(beat.current, 0u);
    EXPECT_EQ(beat.queued, 0);
    EXPECT_EQ(beat.doing, StageBeat::Doing::kIdle);
    EXPECT_EQ(pipeline->num_answers(i), 0u);
  }
}

TEST_P(PipelineStageTest, APlanThatCannotBeRunEndsTheEpochBehindThoseBefore) {
  struct Case {
    std::function<void(StepPlan&)> spoil;
    bool at_once = true;  // seen when the plan comes; else when the stage gets to it
  };
  const Case cases[] = {
      {[](StepPlan& plan) { plan.rows[0].blocks = {-1}; }},
      {[](StepPlan& plan) { plan.number = 3; }},
      {[](StepPlan& plan) { plan.epoch = 777; }},
      {[](StepPlan& plan) { plan.rows.clear(); }},
      {[](StepPlan& plan) { plan.rows[0].token_from = 1; }},     // and a token
      {[](StepPlan& plan) { plan.rows[0].tokens.resize(17); }},  // more than the stage takes
      {[](StepPlan& plan) { plan.rows[0].generation = 9; }, false},
  };
  const auto pipeline = Make({2});
  uint32_t epoch = 0;
  for (const Case& one : cases) {
    ++epoch;
    pipeline->BeginEpoch(epoch, 1);
    StepPlan bad = Plan(2, epoch);
    one.spoil(bad);
    pipeline->Submit(Plan(1, epoch));
    pipeline->Submit(bad);
    pipeline->Submit(Plan(3, epoch));
    pipeline->Submit(bad);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_TRUE(IsOk(pipeline->Next(i)));
      // The second stage does not get to a plan that the first one does not run.
      if (i == 1 && !one.at_once) continue;
      EXPECT_TRUE(Fails(pipeline->Next(i), absl::StatusCode::kFailedPrecondition, {}));
    }
    ++epoch;
    pipeline->BeginEpoch(epoch, 1);
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(pipeline->num_answers(i), 0u);
    ExpectWorks(*pipeline, epoch, 1);
  }
  pipeline->BeginEpoch(++epoch, 1);
  StepPlan drafts = Plan(1, epoch);
  drafts.rows[0].num_drafts = 1;
  pipeline->Submit(drafts);
  EXPECT_TRUE(Fails(pipeline->Next(1), absl::StatusCode::kUnimplemented, {"drafts"}));
}

TEST_P(PipelineStageTest, ANewEpochEmptiesTheSlots) {
  const auto pipeline = Make({2});
  pipeline->BeginEpoch(1, 1);
  ExpectWorks(*pipeline, 1, 1);
  pipeline->BeginEpoch(2, 4);
  StepPlan plan = Plan(4, 1);  // goes on as if nothing had been
  plan.epoch = 2;
  pipeline->Submit(plan);
  EXPECT_TRUE(
      Fails(pipeline->Next(0), absl::StatusCode::kFailedPrecondition, {"was not admitted"}));
}

TEST_P(PipelineStageTest, AnInputThatComesTooLateEndsTheEpochOnce) {
  const auto pipeline = Make({2});
  pipeline->BeginEpoch(1, 1);
  StepPlan plan = Plan(1, 1);
  plan.limit_ns = kMillisecond;
  pipeline->SubmitTo(1, plan);
  pipeline->SubmitTo(1, Plan(2, 1));
  EXPECT_TRUE(Fails(pipeline->Next(1), absl::StatusCode::kDeadlineExceeded, {}));
  pipeline->stage(1).Submit(Plan(3, 1), [](const auto&) { ADD_FAILURE() << "the epoch is over"; });
  pipeline->BeginEpoch(2, 2);
  EXPECT_EQ(pipeline->num_answers(1), 0u);
  ExpectWorks(*pipeline, 2, 2);
}

// The first stage waits for the tokens of a plan that the last one does not run.
TEST_P(PipelineStageTest, ATokenThatComesTooLateEndsTheEpoch) {
  const auto pipeline = Make({2});
  pipeline->BeginEpoch(1, 1);
  pipeline->SubmitTo(0, Plan(1, 1));
  StepPlan plan = PlanAhead(2, 1);
  plan.limit_ns = kMillisecond;
  pipeline->SubmitTo(0, plan);
  EXPECT_TRUE(IsOk(pipeline->Next(0)));
  EXPECT_TRUE(Fails(pipeline->Next(0), absl::StatusCode::kDeadlineExceeded, {}));
}

TEST_P(PipelineStageTest, AReceiverThatTakesNothingEndsTheEpochOfTheSender) {
  TransportOptions narrow;
  narrow.window = 1;
  const auto pipeline = Make({2}, narrow);
  pipeline->BeginEpoch(1, 1);
  for (uint64_t number = 1; number <= 2; ++number) {
    StepPlan plan = Plan(number, 1);
    plan.limit_ns = number == 1 ? kPatience : kMillisecond;
    pipeline->SubmitTo(0, plan);
  }
  EXPECT_TRUE(IsOk(pipeline->Next(0)));
  EXPECT_TRUE(Fails(pipeline->Next(0), absl::StatusCode::kDeadlineExceeded, {}));
}

// Whatever a stage waits for without a limit, a new epoch and giving it up end it at once.
TEST_P(PipelineStageTest, EveryWaitIsCancelledByTheNextEpochAndByGivingUp) {
  using Doing = StageBeat::Doing;
  struct Case {
    const char* name;
    size_t stage;
    uint64_t plan;
    Doing doing;
    bool ahead;
  };
  const Case cases[] = {{"for rows", 1, 1, Doing::kWaitsForInput, false},
                        {"for a token", 0, 2, Doing::kWaitsForInput, true},
                        {"for room", 0, 5, Doing::kSends, false}};
  TransportOptions narrow;
  narrow.window = 4;
  for (const Case& one : cases) {
    SCOPED_TRACE(one.name);
    const auto get_stuck = [&](LocalPipeline& pipeline, uint32_t epoch) {
      for (uint64_t number = 1; number <= 6; ++number) {
        pipeline.SubmitTo(one.stage,
                          one.ahead && number > 1 ? PlanAhead(number, epoch) : Plan(number, epoch));
      }
      for (uint64_t number = 1; number < one.plan; ++number) {
        EXPECT_TRUE(IsOk(pipeline.Next(one.stage)));
      }
      WaitFor(pipeline.stage(one.stage), one.plan, one.doing);
      EXPECT_EQ(pipeline.stage(one.stage).beat().queued, 6 - static_cast<int64_t>(one.plan));
    };
    const auto pipeline = Make({2}, narrow, 8);
    pipeline->BeginEpoch(1, 1);
    get_stuck(*pipeline, 1);
    pipeline->BeginEpoch(2, 1);
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(pipeline->num_answers(i), 0u);
    ExpectWorks(*pipeline, 2, 1);
    pipeline->BeginEpoch(3, 1);
    get_stuck(*pipeline, 3);
    pipeline->stage(one.stage).Abandon();
    EXPECT_TRUE(Fails(pipeline->stage(one.stage).BeginEpoch(pipeline->Start(one.stage, 4, 1)),
                      absl::StatusCode::kCancelled, {}));
    EXPECT_EQ(pipeline->num_answers(one.stage), 0u);

    const auto destroyed = Make({2}, narrow, 8);
    destroyed->BeginEpoch(1, 1);
    get_stuck(*destroyed, 1);
    destroyed->Destroy(one.stage);
    EXPECT_EQ(destroyed->num_answers(one.stage), 0u);
  }
}

TEST_P(PipelineStageTest, ADeadNeighbourIsSeenAtOnce) {
  const auto before = Make({2});
  before->BeginEpoch(1, 1);
  before->SubmitTo(1, Plan(1, 1));
  before->Destroy(0);
  EXPECT_TRUE(Fails(before->Next(1), absl::StatusCode::kUnavailable, {}));

  const auto last = Make({1, 2});
  last->BeginEpoch(1, 1);
  last->SubmitTo(0, Plan(1, 1));
  last->SubmitTo(0, PlanAhead(2, 1));
  EXPECT_TRUE(IsOk(last->Next(0)));
  last->Destroy(2);
  EXPECT_TRUE(Fails(last->Next(0), absl::StatusCode::kUnavailable, {}));
}

// Tokens that no plan feeds are taken all the same: as many plans as the stages were told of may be
// on their way, and room for as many is enough.
TEST_P(PipelineStageTest, TokensThatNobodyFeedsHoldNobodyUp) {
  TransportOptions narrow;
  narrow.window = 4;
  const auto pipeline = Make({1, 2}, narrow);
  pipeline->BeginEpoch(1, 1);
  for (uint64_t number = 1; number <= 20; ++number) {
    StepPlan plan = Plan(number, 1);
    plan.limit_ns = kPatience;
    pipeline->Submit(plan);
    if (number < 4) continue;
    EXPECT_TRUE(IsOk(pipeline->Next()));
  }
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(IsOk(pipeline->Next()));
}

TEST_P(PipelineStageTest, RefusesAnEpochThatDoesNotFit) {
  const auto refused = absl::StatusCode::kFailedPrecondition;
  const auto pipeline = Make({1, 2});
  pipeline->BeginEpoch(3, 1);
  const auto begin = [&](size_t i, const std::function<void(EpochStart&)>& change) {
    EpochStart start = pipeline->Start(i, 4, 1);
    change(start);
    return pipeline->stage(i).BeginEpoch(start);
  };
  EXPECT_TRUE(Fails(begin(0, [](EpochStart& s) { s.epoch = 3; }), refused, {"seen epoch 3"}));
  EXPECT_TRUE(Fails(begin(0, [](EpochStart& s) { s.first_plan = 0; }), refused, {"from 1"}));
  EXPECT_TRUE(Fails(begin(0, [](EpochStart& s) { s.next.clear(); }), refused, {"takes its rows"}));
  EXPECT_TRUE(Fails(begin(1, [](EpochStart& s) { s.first = "x"; }), refused, {"only the last"}));
  EXPECT_TRUE(Fails(begin(2, [](EpochStart& s) { s.next = "x"; }), refused, {"to no other"}));
  EXPECT_TRUE(Fails(begin(2, [](EpochStart& s) { s.first = ""; }), refused, {"takes its tokens"}));
  EXPECT_TRUE(Fails(begin(1, [](EpochStart& s) { s.num_blocks = 1 << 20; }), refused, {"blocks"}));
  pipeline->BeginEpoch(5, 1);
  ExpectWorks(*pipeline, 5, 1);
}

// A neighbour that stays away fails the start, not the stage.
TEST_P(PipelineStageTest, ConnectingHasItsLimitAndMayBeTriedAgain) {
  const auto pipeline = Make({2});
  EpochStart start = pipeline->Start(0, 1, 1);
  start.connect_ns = kMillisecond;
  EXPECT_TRUE(Fails(pipeline->stage(0).BeginEpoch(start), absl::StatusCode::kDeadlineExceeded, {}));
  pipeline->stage(0).Submit(Plan(1, 1), [](const auto&) { ADD_FAILURE() << "no epoch"; });
  start.epoch = 2;
  start.next = "local:99";
  // By mail it is no address at all.
  EXPECT_TRUE(Fails(
      pipeline->stage(0).BeginEpoch(start),
      by_mail() ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kUnavailable, {}));
  pipeline->BeginEpoch(3, 1);
  ExpectWorks(*pipeline, 3, 1);
}

TEST_P(PipelineStageTest, TimesSayWhatAStageWaitedFor) {
  const auto pipeline = Make({2});
  pipeline->BeginEpoch(1, 1);
  pipeline->SubmitTo(1, Plan(1, 1));
  WaitFor(pipeline->stage(1), 1, StageBeat::Doing::kWaitsForInput);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_GE(pipeline->stage(1).beat().doing_ns, 100 * kMillisecond);
  pipeline->SubmitTo(0, Plan(1, 1));
  const auto first = pipeline->Next(0);
  const auto second = pipeline->Next(1);
  ASSERT_TRUE(IsOk(first));
  ASSERT_TRUE(IsOk(second));
  EXPECT_EQ(first->times.wait_input_ns, 0);
  // Less by what it took from saying so to waiting.
  EXPECT_GE(second->times.wait_input_ns, 95 * kMillisecond);
  EXPECT_EQ(second->times.wait_plan_ns, 0) << "there was none before";
  EXPECT_GT(second->times.compute_ns, 0);
  EXPECT_GE(second->times.start_ns, first->times.start_ns + first->times.compute_ns);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  pipeline->Submit(Plan(2, 1));
  EXPECT_GE(pipeline->Next(0)->times.wait_plan_ns, 20 * kMillisecond);
  EXPECT_GE(pipeline->Next(1)->times.wait_plan_ns, 20 * kMillisecond);
}

INSTANTIATE_TEST_SUITE_P(By, PipelineStageTest, ::testing::Values(By::kHost, By::kMail, By::kNccl),
                         [](const auto& info) {
                           return info.param == By::kHost   ? "Lanes"
                                  : info.param == By::kMail ? "Mail"
                                                            : "Nccl";
                         });

// A stage alone, its executor held by the test.
class HeldStageTest : public ::testing::Test {
 protected:
  HeldStageTest() {
    StageOptions options;
    options.model = "fake.gguf";
    EXPECT_TRUE(IsOk(stage_->Load(options, [](const LoadProgress&) {})));
    EpochStart start;
    start.epoch = 1;
    start.num_blocks = 4;
    EXPECT_TRUE(IsOk(stage_->BeginEpoch(start)));
  }
  ~HeldStageTest() override { control_->Release(); }

  const std::shared_ptr<FakeStageControl> control_ = std::make_shared<FakeStageControl>();
  std::unique_ptr<PipelineStage> stage_ = std::make_unique<PipelineStage>(
      std::make_unique<FakeExecutor>(FakeModelOptions{.num_blocks = 4}, control_), nullptr);
};

TEST_F(HeldStageTest, GivenUpItSkipsWhatIsQueuedAndAnswersNothing) {
  control_->Hold();
  for (uint64_t number = 1; number <= 3; ++number) {
    stage_->Submit(Plan(number, 1), [](const auto&) { ADD_FAILURE() << "nobody listens"; });
  }
  control_->WaitForPlans(1);
  const StageBeat beat = stage_->beat();
  EXPECT_EQ(beat.doing, StageBeat::Doing::kComputes);
  EXPECT_EQ(beat.current, 1u);
  EXPECT_EQ(beat.done, 0u);
  EXPECT_EQ(beat.queued, 2);
  stage_->Abandon();
  control_->Release();
  stage_.reset();
  EXPECT_EQ(control_->executed(), (std::vector<uint64_t>{1}));
}

TEST_F(HeldStageTest, AnExecutorThatFailsEndsTheEpochAndIsTold) {
  control_->FailAt(2, absl::InternalError("broken"));
  std::vector<absl::Status> answers;
  std::promise<void> failed;
  for (uint64_t number = 1; number <= 3; ++number) {
    StepPlan plan = Plan(number, 1);
    plan.rows[0].sample = number == 1;
    plan.rows[0].tokens = {7};
    stage_->Submit(plan, [&, number](const auto& result) {
      answers.push_back(result.status());
      if (number == 2) failed.set_value();
    });
  }
  failed.get_future().wait();
  stage_.reset();
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_TRUE(IsOk(answers[0]));
  EXPECT_TRUE(Fails(answers[1], absl::StatusCode::kInternal, {"broken"}));
  EXPECT_EQ(control_->executed(), (std::vector<uint64_t>{1, 2}));
}

TEST(PipelineStage, OneOfSeveralNeedsATransport) {
  PipelineStage stage(
      std::make_unique<FakeExecutor>(FakeModelOptions{}, std::make_shared<FakeStageControl>()),
      nullptr);
  StageOptions options;
  options.num_stages = 2;
  EXPECT_TRUE(Fails(stage.Load(options, [](const LoadProgress&) {}),
                    absl::StatusCode::kFailedPrecondition, {"penstock-worker"}));
  EpochStart start;
  start.epoch = 1;
  EXPECT_TRUE(
      Fails(stage.BeginEpoch(start), absl::StatusCode::kFailedPrecondition, {"loaded no model"}));
  stage.Submit(Plan(1, 1), [](const auto&) { ADD_FAILURE() << "no epoch"; });
}

}  // namespace
}  // namespace penstock
