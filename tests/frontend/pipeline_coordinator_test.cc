#include "frontend/pipeline_coordinator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "tests/support/fake_stage.h"

namespace penstock {
namespace {

// A link that answers what the test says, when the test says.
class ScriptedLink : public StageLink {
 public:
  absl::StatusOr<StageInfo> Load(const StageOptions& options, const ProgressCallback&) override {
    if (options.model.empty()) return absl::NotFoundError("no such file");
    StageInfo info;
    info.config.vocab_size = 10;
    info.num_blocks = 4;
    return info;
  }
  void SetResultCallback(ResultCallback callback) override { callback_ = std::move(callback); }
  void Submit(const StepPlan& plan) override { plans.push_back(plan); }

  void Answer(absl::StatusOr<StepResult> result) { callback_(std::move(result)); }

  std::vector<StepPlan> plans;

 private:
  ResultCallback callback_;
};

// Row 0 feeds three tokens and samples position 3, row 1 samples nothing and has two targets. Two
// likeliest tokens are asked for beside a sample, one beside a target.
StepPlan Plan(uint64_t number) {
  StepPlan plan;
  plan.number = number;
  for (int32_t slot : {0, 1}) {
    PlanRow& row = plan.rows.emplace_back();
    row.slot = slot;
    row.generation = 5;
    row.tokens = {1, 2, 3};
    row.blocks = {slot};
    row.sample = slot == 0;
    if (slot == 1) row.targets = {2, 3};
    Admission& admission = plan.admissions.emplace_back();
    admission.slot = slot;
    admission.generation = 5;
    admission.sampling.logprobs = 2;
    admission.sampling.prompt_logprobs = slot == 1 ? 1 : -1;
  }
  return plan;
}

StepResult Result(const StepPlan& plan) {
  StepResult result;
  result.number = plan.number;
  result.epoch = plan.epoch;
  SampledToken& sample = result.samples.emplace_back();
  sample.slot = 0;
  sample.generation = 5;
  sample.position = 3;
  sample.token = 9;
  sample.top = {{9, -0.5f}, {0, -1.0f}};
  result.prompt_logprobs = {{1, 5, 1, {2, -1.0f}, {{4, -0.5f}}}, {1, 5, 2, {3, -2.0f}, {{3, -2}}}};
  return result;
}

class PipelineCoordinatorTest : public testing::Test {
 protected:
  PipelineCoordinatorTest() {
    auto link = std::make_unique<ScriptedLink>();
    link_ = link.get();
    coordinator_ = std::make_unique<PipelineCoordinator>(std::move(link));
    StageOptions options;
    options.model = "a model";
    EXPECT_EQ(coordinator_->Load(options)->num_blocks, 4);
  }

  // The outcome of plan 1 if the stage answers `result`, made from a good one.
  absl::Status OutcomeOf(void (*spoil)(StepResult&)) {
    coordinator_->Submit(Plan(1));
    StepResult result = Result(link_->plans[0]);
    spoil(result);
    link_->Answer(result);
    return coordinator_->Take()->result.status();
  }

  ScriptedLink* link_ = nullptr;
  std::unique_ptr<PipelineCoordinator> coordinator_;
};

TEST_F(PipelineCoordinatorTest, PassesOnWhyLoadingFailed) {
  PipelineCoordinator coordinator(std::make_unique<ScriptedLink>());
  EXPECT_EQ(coordinator.Load({}).status(), absl::NotFoundError("no such file"));
}

TEST_F(PipelineCoordinatorTest, HandsOutResultsInPlanOrder) {
  EXPECT_FALSE(coordinator_->Take().has_value());
  coordinator_->Submit(Plan(1));
  coordinator_->Submit(Plan(2));
  EXPECT_EQ(coordinator_->num_in_flight(), 2);
  EXPECT_FALSE(coordinator_->Take().has_value());
  EXPECT_GT(link_->plans[0].epoch, 0u);
  for (const StepPlan& plan : link_->plans) link_->Answer(Result(plan));
  for (uint64_t number : {1, 2}) {
    const auto outcome = coordinator_->Take();
    ASSERT_TRUE(outcome.has_value());
    EXPECT_EQ(outcome->number, number);
    EXPECT_EQ(outcome->result->samples[0].token, 9);
  }
  EXPECT_EQ(coordinator_->num_in_flight(), 0);
  EXPECT_TRUE(coordinator_->status().ok());
}

TEST_F(PipelineCoordinatorTest, WakesTheEngine) {
  const auto wakeup = std::make_shared<Wakeup>();
  coordinator_->SetWakeup(wakeup);
  coordinator_->Submit(Plan(1));
  std::thread stage([this] { link_->Answer(Result(link_->plans[0])); });
  wakeup->Wait(absl::InfiniteDuration());
  EXPECT_TRUE(coordinator_->Take()->result.ok());
  stage.join();
}

TEST_F(PipelineCoordinatorTest, AnErrorEndsEveryPlanInFlight) {
  for (uint64_t number : {1, 2, 3}) coordinator_->Submit(Plan(number));
  link_->Answer(Result(link_->plans[0]));
  link_->Answer(absl::UnavailableError("gone"));
  EXPECT_TRUE(coordinator_->Take()->result.ok());
  EXPECT_EQ(coordinator_->Take()->result.status(), absl::UnavailableError("gone"));
  // Plan 3 has the same outcome, whatever the stage says about it.
  link_->Answer(Result(link_->plans[2]));
  const auto last = coordinator_->Take();
  EXPECT_EQ(last->number, 3u);
  EXPECT_EQ(last->result.status(), absl::UnavailableError("gone"));
  EXPECT_EQ(coordinator_->status(), absl::UnavailableError("gone"));
  EXPECT_FALSE(coordinator_->Take().has_value());
}

using Spoil = void (*)(StepResult&);
class BadResultTest : public PipelineCoordinatorTest,
                      public testing::WithParamInterface<std::pair<const char*, Spoil>> {};

TEST_P(BadResultTest, IsAnInternalError) {
  const absl::Status status = OutcomeOf(GetParam().second);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(Message(status).find(GetParam().first), std::string::npos) << status;
  EXPECT_EQ(coordinator_->status(), status);
}

INSTANTIATE_TEST_SUITE_P(
    All, BadResultTest,
    testing::Values(
        std::pair(
            "it is of plan 7", +[](StepResult& r) { r.number = 7; }),
        std::pair(
            "epoch 0", +[](StepResult& r) { r.epoch = 0; }),
        std::pair(
            "samples are missing", +[](StepResult& r) { r.samples.clear(); }),
        std::pair(
            "a second", +[](StepResult& r) { r.samples.push_back(r.samples[0]); }),
        std::pair(
            "unasked sample of slot 1", +[](StepResult& r) { r.samples[0].slot = 1; }),
        std::pair(
            "unasked sample of slot -1", +[](StepResult& r) { r.samples[0].slot = -1; }),
        std::pair(
            "generation 4", +[](StepResult& r) { r.samples[0].generation = 4; }),
        std::pair(
            "position 4", +[](StepResult& r) { r.samples[0].position = 4; }),
        std::pair(
            "token 10", +[](StepResult& r) { r.samples[0].token = 10; }),
        std::pair(
            "token -2", +[](StepResult& r) { r.samples[0].token = -2; }),
        std::pair(
            "not a number", +[](StepResult& r) { r.samples[0].logprob = NAN; }),
        std::pair(
            "2 likeliest tokens are told instead of 0",
            +[](StepResult& r) { r.samples[0].token = kNoToken; }),
        std::pair(
            "1 likeliest tokens are told instead of 2",
            +[](StepResult& r) { r.samples[0].top.pop_back(); }),
        std::pair(
            "token 10", +[](StepResult& r) { r.samples[0].top[1].token = 10; }),
        std::pair(
            "not a number", +[](StepResult& r) { r.samples[0].top[1].logprob = NAN; }),
        std::pair(
            "a prompt are missing", +[](StepResult& r) { r.prompt_logprobs.pop_back(); }),
        std::pair(
            "not asked for",
            +[](StepResult& r) { r.prompt_logprobs.push_back(r.prompt_logprobs[0]); }),
        std::pair(
            "token 7 of slot 1", +[](StepResult& r) { r.prompt_logprobs[1].token.token = 7; }),
        std::pair(
            "slot 0", +[](StepResult& r) { r.prompt_logprobs[1].slot = 0; }),
        std::pair(
            "generation 6", +[](StepResult& r) { r.prompt_logprobs[0].generation = 6; }),
        std::pair(
            "position 3", +[](StepResult& r) { r.prompt_logprobs[1].position = 3; }),
        std::pair(
            "0 likeliest tokens are told instead of 1",
            +[](StepResult& r) { r.prompt_logprobs[0].top.clear(); }),
        std::pair(
            "1 likeliest tokens are told instead of 0",
            +[](StepResult& r) { r.prompt_logprobs[0].token.token = kNoToken; })));

TEST_F(PipelineCoordinatorTest, AFailedRowIsAResult) {
  EXPECT_TRUE(OutcomeOf([](StepResult& r) {
                r.samples[0].token = kNoToken;
                r.samples[0].top.clear();
                r.prompt_logprobs[1].token.token = kNoToken;
                r.prompt_logprobs[1].top.clear();
              }).ok());
}

TEST(PipelineCoordinator, EndsWithPlansInFlight) {
  auto stage = std::make_unique<FakeStage>(FakeModelOptions{});
  stage->Hold();
  PipelineCoordinator coordinator(std::move(stage));
  ASSERT_TRUE(coordinator.Load({}).ok());
  coordinator.Submit(Plan(1));
}

}  // namespace
}  // namespace penstock
