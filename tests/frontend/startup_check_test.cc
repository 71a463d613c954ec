// The checks before ready, over a fake stage that computes right, and over ones that do not.
#include "frontend/startup_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <utility>

#include "tests/support/fake_executor.h"
#include "tests/support/small_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using Code = absl::StatusCode;

// Changes what another stage says.
class Spoiled final : public StageExecutor {
 public:
  using Change = std::function<void(const StepPlan&, StepResult*)>;
  Spoiled(std::unique_ptr<StageExecutor> stage, Change change)
      : stage_(std::move(stage)), change_(std::move(change)) {}

  absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                 const ProgressCallback& progress) override {
    return stage_->Load(options, progress);
  }
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override {
    absl::StatusOr<StepResult> result = stage_->Execute(plan);
    if (result.ok()) change_(plan, &*result);
    return result;
  }

 private:
  const std::unique_ptr<StageExecutor> stage_;
  const Change change_;
};

std::unique_ptr<ModelRuntime> Start(Spoiled::Change change, RuntimeOptions options = {}) {
  std::unique_ptr<Tokenizer> tokenizer = MakeTokenizer(SmallVocabulary()).value();
  FakeModelOptions model;
  model.vocab_size = static_cast<int32_t>(tokenizer->vocab_size());
  options.stage.max_sequences = model.max_sequences;
  options.stage.max_step_tokens = model.max_step_tokens;
  auto stage = std::make_unique<FakeExecutor>(model, std::make_shared<FakeStageControl>());
  return ModelRuntime::Start(options, std::move(tokenizer),
                             std::make_unique<Spoiled>(std::move(stage), std::move(change)))
      .value();
}

absl::Status Check(ModelRuntime& runtime, const std::optional<ModelCheck>& check = std::nullopt,
                   bool exact = true) {
  return CheckAnswers(runtime, check, "model.check.json", exact);
}

const Spoiled::Change kRight = [](const StepPlan&, StepResult*) {};

TEST(StartupCheckTest, AStageThatComputesRightPasses) {
  EXPECT_TRUE(IsOk(Check(*Start(kRight))));
  EXPECT_TRUE(IsOk(Check(*Start(kRight), std::nullopt, /*exact=*/false)));
}

TEST(StartupCheckTest, AnAnswerThatDependsOnItsBatchIsFound) {
  const auto runtime = Start([](const StepPlan& plan, StepResult* result) {
    if (plan.rows.size() > 1) {
      for (SampledToken& sample : result->samples) sample.logprob -= 1e-6f;
    }
  });
  EXPECT_TRUE(Fails(Check(*runtime), Code::kInternal, {"log-probability", "--no-startup-check"}));
}

TEST(StartupCheckTest, AnAnswerThatDependsOnHowItWasFedIsFound) {
  const auto runtime = Start([](const StepPlan& plan, StepResult* result) {
    for (const PlanRow& row : plan.rows) {
      for (SampledToken& sample : result->samples) {
        // A prompt that is longer than the fixed one: the replay.
        if (sample.slot == row.slot && row.tokens.size() > 8) sample.logprob -= 0.5f;
      }
    }
  });
  EXPECT_TRUE(Fails(Check(*runtime), Code::kInternal, {"fed as a prompt"}));
}

TEST(StartupCheckTest, ARowWithoutNumbersIsFound) {
  const auto runtime = Start([](const StepPlan&, StepResult* result) {
    for (SampledToken& sample : result->samples) sample.token = kNoToken;
  });
  EXPECT_TRUE(Fails(Check(*runtime), Code::kInternal, {"check before ready failed"}));
}

TEST(StartupCheckTest, RowsWithoutNumbersInABatchAreFound) {
  const auto runtime = Start([](const StepPlan& plan, StepResult* result) {
    if (plan.rows.size() < 2) return;
    for (SampledToken& sample : result->samples) sample.token = kNoToken;
  });
  EXPECT_TRUE(Fails(Check(*runtime), Code::kInternal, {"check before ready failed"}));
}

TEST(StartupCheckTest, TheCheckFilesAnswerHasToCome) {
  const auto runtime = Start(kRight);
  const auto known = GenerateKnownAnswer(*runtime);
  ASSERT_TRUE(IsOk(known));
  EXPECT_FALSE(known->prompt_ids.empty());
  ModelCheck check;
  check.prompt_ids = known->prompt_ids;
  check.ids = known->ids;
  EXPECT_TRUE(IsOk(Check(*runtime, check)));
  check.ids.back() ^= 1;
  EXPECT_TRUE(Fails(Check(*runtime, check), Code::kDataLoss,
                    {"model.check.json", "inspect --write-check"}));
  // Another backend's answer says nothing of this one.
  check.backend = "cuda";
  EXPECT_TRUE(IsOk(Check(*runtime, check)));
}

TEST(StartupCheckTest, NarrowLimitsAreNoFailure) {
  RuntimeOptions options;
  options.engine.max_queued_requests = 1;
  EXPECT_TRUE(IsOk(Check(*Start(kRight, options))));
  options.engine.max_queued_tokens = 4;
  EXPECT_TRUE(IsOk(Check(*Start(kRight, options))));
}

TEST(StartupCheckTest, TheCheckFileLiesBesideTheModel) {
  EXPECT_EQ(FindCheckFile("/none/model.gguf", false).value(), "");
  EXPECT_TRUE(Fails(FindCheckFile("/none/model.gguf", true), Code::kNotFound,
                    {"/none/model.gguf.check.json", "--write-check", "--verify-weights"}));
}

}  // namespace
}  // namespace penstock
