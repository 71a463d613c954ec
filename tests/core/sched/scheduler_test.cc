#include "core/sched/scheduler.h"

#include <gtest/gtest.h>

#include <optional>
#include <utility>

#include "tests/support/pipeline_costs.h"
#include "tests/support/scheduler_steps.h"

namespace penstock {
namespace {

TEST(Scheduler, HasNoPlanWithoutWork) {
  Scheduler scheduler(Options(4, 2, 8), EvenCost(1));
  EXPECT_FALSE(scheduler.HasWork());
  EXPECT_FALSE(scheduler.Schedule().has_value());
  scheduler.Add(1, {Prompt(3), 2, Sampling()});
  EXPECT_TRUE(scheduler.HasWork());
  // A plan that was not made takes no number.
  EXPECT_EQ(scheduler.Schedule()->number, 1u);
}

TEST(Scheduler, CutsALongPromptIntoChunks) {
  Scheduler scheduler(Options(4, 2, 60), EvenCost(1));
  SamplingParams sampling;
  sampling.seed = 7;
  scheduler.Add(1, {Prompt(130), 3, sampling});

  std::optional<StepPlan> plan = scheduler.Schedule();
  ASSERT_EQ(plan->admissions.size(), 1u);
  EXPECT_EQ(plan->admissions[0].generation, 1u);
  EXPECT_EQ(plan->admissions[0].sampling.seed, 7u);
  ASSERT_EQ(plan->rows.size(), 1u);
  EXPECT_EQ(plan->rows[0].slot, plan->admissions[0].slot);
  EXPECT_EQ(plan->rows[0].position, 0);
  EXPECT_EQ(plan->rows[0].tokens.size(), 60u);
  EXPECT_EQ(plan->rows[0].blocks.size(), 1u);
  EXPECT_FALSE(plan->rows[0].sample);
  EXPECT_TRUE(scheduler.Commit(Answer(*plan, 9)).empty());

  plan = scheduler.Schedule();
  EXPECT_EQ(plan->number, 2u);
  EXPECT_TRUE(plan->admissions.empty());
  EXPECT_EQ(plan->rows[0].position, 60);
  EXPECT_EQ(plan->rows[0].tokens[0], 160);
  EXPECT_EQ(plan->rows[0].blocks.size(), 2u);
  EXPECT_TRUE(scheduler.Commit(Answer(*plan, 9)).empty());

  plan = scheduler.Schedule();
  EXPECT_EQ(plan->rows[0].tokens.size(), 10u);
  EXPECT_EQ(plan->rows[0].blocks.size(), 3u);
  EXPECT_TRUE(plan->rows[0].sample);
  const std::vector<SequenceProgress> progress = scheduler.Commit(Answer(*plan, 9));
  ASSERT_EQ(progress.size(), 1u);
  EXPECT_EQ(progress[0].id, 1);
  EXPECT_EQ(progress[0].token->token, 9);
  EXPECT_EQ(progress[0].token->logprob, -0.5f);
  EXPECT_EQ(progress[0].end, SequenceEnd::kNone);

  plan = scheduler.Schedule();
  EXPECT_EQ(plan->rows[0].position, 130);
  EXPECT_EQ(plan->rows[0].tokens, std::vector<int32_t>{9});
}

TEST(Scheduler, DecodesShareAStepWithPrefillAndStandLast) {
  Scheduler scheduler(Options(16, 4, 10), EvenCost(1));
  scheduler.Add(1, {Prompt(3), 9, Sampling()});
  scheduler.Add(2, {Prompt(4), 9, Sampling()});
  Step(scheduler, 50);
  scheduler.Add(3, {Prompt(20), 9, Sampling()});
  scheduler.Add(4, {Prompt(1), 9, Sampling()});

  // Two decodes leave 8 tokens for the prompt of 3; 4 has to wait for its turn.
  std::optional<StepPlan> plan = scheduler.Schedule();
  ASSERT_EQ(plan->rows.size(), 3u);
  EXPECT_EQ(plan->rows[0].tokens.size(), 8u);
  EXPECT_FALSE(plan->rows[0].sample);
  EXPECT_EQ(plan->rows[1].position, 3);
  EXPECT_EQ(plan->rows[2].position, 4);
  EXPECT_EQ(plan->num_tokens(), 10);
  scheduler.Commit(Answer(*plan, 51));
  Step(scheduler, 52);

  // The prompt's last 4 tokens and all of 4's prompt, one token long: both before the decodes.
  plan = scheduler.Schedule();
  ASSERT_EQ(plan->rows.size(), 4u);
  EXPECT_EQ(plan->rows[0].tokens.size(), 4u);
  EXPECT_EQ(plan->rows[1].tokens, std::vector<int32_t>{100});
  EXPECT_EQ(plan->rows[1].position, 0);
  EXPECT_EQ(plan->rows[2].tokens, std::vector<int32_t>{52});
  EXPECT_EQ(scheduler.Commit(Answer(*plan, 53)).size(), 4u);
}

TEST(Scheduler, EndsAtAnEndIdOrAtMaxTokens) {
  Scheduler scheduler(Options(4, 2, 8), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 5, Sampling()});
  scheduler.Add(2, {Prompt(2), 2, Sampling()});
  EXPECT_EQ(Step(scheduler, 50).size(), 2u);
  const std::vector<SequenceProgress> at_length = Step(scheduler, 51);
  ASSERT_EQ(at_length.size(), 2u);
  EXPECT_EQ(at_length[0].end, SequenceEnd::kNone);
  EXPECT_EQ(at_length[1].end, SequenceEnd::kLength);
  const std::vector<SequenceProgress> at_end = Step(scheduler, kEnd);
  ASSERT_EQ(at_end.size(), 1u);
  EXPECT_EQ(at_end[0].token->token, kEnd);
  EXPECT_EQ(at_end[0].end, SequenceEnd::kStop);
  EXPECT_FALSE(scheduler.HasWork());
  EXPECT_EQ(scheduler.blocks().num_free(), 4);
}

TEST(Scheduler, AnEndIdAsTheLastTokenIsAStop) {
  Scheduler scheduler(Options(4, 2, 8), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 1, Sampling()});
  EXPECT_EQ(Step(scheduler, kEnd)[0].end, SequenceEnd::kStop);
}

TEST(Scheduler, AStageIsToldThePromptAndTheHistoryIfItNeedsIt) {
  Scheduler scheduler(Options(8, 4, 8), EvenCost(1));
  SamplingParams penalized = Sampling();
  penalized.repetition_penalty = 1.5f;
  SamplingParams bad_words = Sampling();
  bad_words.bad_words = {{5, 6}};
  scheduler.Add(1, {Prompt(3), 2, Sampling()});
  scheduler.Add(2, {Prompt(2), 2, penalized});
  scheduler.Add(3, {Prompt(2), 2, bad_words});
  const std::optional<StepPlan> plan = scheduler.Schedule();
  ASSERT_EQ(plan->admissions.size(), 3u);
  EXPECT_EQ(plan->admissions[0].prompt_tokens, 3);
  EXPECT_TRUE(plan->admissions[0].history.empty());
  EXPECT_EQ(plan->admissions[1].prompt_tokens, 2);
  EXPECT_EQ(plan->admissions[1].history, Prompt(2));
  EXPECT_EQ(plan->admissions[2].history, Prompt(2));
}

TEST(Scheduler, ThePromptsLogProbabilitiesComeWithItsChunks) {
  Scheduler scheduler(Options(8, 4, 5), EvenCost(1));
  SamplingParams sampling = Sampling();
  sampling.prompt_logprobs = 0;
  scheduler.Add(1, {Prompt(7), 4, sampling});
  std::optional<StepPlan> plan = scheduler.Schedule();
  EXPECT_EQ(plan->rows[0].targets, (std::vector<int32_t>{101, 102, 103, 104, 105}));
  std::vector<SequenceProgress> progress = scheduler.Commit(AnswerTargets(*plan, 50));
  ASSERT_EQ(progress.size(), 1u);
  EXPECT_EQ(progress[0].prompt_logprobs.size(), 5u);
  EXPECT_FALSE(progress[0].token.has_value());
  EXPECT_EQ(progress[0].end, SequenceEnd::kNone);

  plan = scheduler.Schedule();
  EXPECT_EQ(plan->rows[0].targets, std::vector<int32_t>{106});
  progress = scheduler.Commit(AnswerTargets(*plan, 50));
  ASSERT_EQ(progress.size(), 1u);
  ASSERT_EQ(progress[0].prompt_logprobs.size(), 1u);
  EXPECT_EQ(progress[0].prompt_logprobs[0].position, 6);
  EXPECT_EQ(progress[0].prompt_logprobs[0].token.logprob, -106.0f);
  EXPECT_EQ(progress[0].token->token, 50);

  plan = scheduler.Schedule();
  EXPECT_TRUE(plan->rows[0].targets.empty());

  // A prompt of one token has no target.
  Scheduler other(Options(8, 4, 5), EvenCost(1));
  other.Add(1, {Prompt(1), 4, sampling});
  EXPECT_TRUE(other.Schedule()->rows[0].targets.empty());
}

TEST(Scheduler, AFailedRowEndsItsSequenceAlone) {
  Scheduler scheduler(Options(8, 4, 16), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 4, Sampling()});
  scheduler.Add(2, {Prompt(2), 4, Sampling()});
  StepResult result = Answer(*scheduler.Schedule(), 50);
  result.samples[0].token = kNoToken;
  const std::vector<SequenceProgress> progress = scheduler.Commit(result);
  scheduler.CheckIntegrity();
  ASSERT_EQ(progress.size(), 2u);
  EXPECT_EQ(progress[0].id, 1);
  EXPECT_EQ(progress[0].end, SequenceEnd::kFailed);
  EXPECT_FALSE(progress[0].token.has_value());
  EXPECT_EQ(progress[1].end, SequenceEnd::kNone);
  EXPECT_EQ(scheduler.num_running(), 1);
  EXPECT_EQ(scheduler.blocks().num_free(), 7);
}

TEST(Scheduler, APromptWithoutNumbersEndsItsSequenceBeforeItsAnswer) {
  for (int64_t step_tokens : {4, 16}) {  // the prompt goes on, or is sampled
    Scheduler scheduler(Options(8, 4, step_tokens), EvenCost(1));
    SamplingParams sampling = Sampling();
    sampling.prompt_logprobs = 0;
    scheduler.Add(1, {Prompt(7), 4, sampling});
    StepResult result = AnswerTargets(*scheduler.Schedule(), 50);
    result.prompt_logprobs[2].token.token = kNoToken;
    const std::vector<SequenceProgress> progress = scheduler.Commit(result);
    ASSERT_EQ(progress.size(), 1u);
    EXPECT_EQ(progress[0].end, SequenceEnd::kFailed);
    EXPECT_TRUE(progress[0].prompt_logprobs.empty());
    EXPECT_FALSE(progress[0].token.has_value());
    EXPECT_FALSE(scheduler.HasWork());
    EXPECT_EQ(scheduler.blocks().num_free(), 8);
  }
}

TEST(Scheduler, LetsNobodyOvertakeWhoHasNoRoom) {
  Scheduler scheduler(Options(3, 4, 256), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 2, Sampling()});    // one block
  scheduler.Add(2, {Prompt(190), 2, Sampling()});  // three blocks
  scheduler.Add(3, {Prompt(2), 2, Sampling()});    // one block, but behind 2
  EXPECT_EQ(Step(scheduler, 50).size(), 1u);
  EXPECT_EQ(scheduler.blocks().num_free(), 2);
  EXPECT_EQ(scheduler.num_waiting(), 2);
  EXPECT_EQ(scheduler.waiting_tokens(), 192 + 4);
  EXPECT_EQ(Step(scheduler, 50)[0].end, SequenceEnd::kLength);

  EXPECT_EQ(Step(scheduler, 50)[0].id, 2);
  EXPECT_EQ(scheduler.num_waiting(), 1);
  EXPECT_EQ(Step(scheduler, kEnd)[0].id, 2);
  EXPECT_EQ(Step(scheduler, kEnd)[0].id, 3);
}

TEST(Scheduler, WaitsForASlotAndCountsItsUsers) {
  Scheduler scheduler(Options(8, 1, 8), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 1, Sampling()});
  scheduler.Add(2, {Prompt(2), 1, Sampling()});
  std::optional<StepPlan> plan = scheduler.Schedule();
  EXPECT_EQ(plan->rows.size(), 1u);
  scheduler.Commit(Answer(*plan, 50));
  plan = scheduler.Schedule();
  ASSERT_EQ(plan->admissions.size(), 1u);
  EXPECT_EQ(plan->admissions[0].slot, 0);
  EXPECT_EQ(plan->admissions[0].generation, 2u);
  EXPECT_EQ(plan->rows[0].generation, 2u);
}

TEST(Scheduler, AbortFreesAtOnceWithoutARowInFlight) {
  Scheduler scheduler(Options(8, 1, 8), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 9, Sampling()});
  scheduler.Add(2, {Prompt(2), 9, Sampling()});
  Step(scheduler, 50);
  scheduler.Abort(2);  // waits
  EXPECT_EQ(scheduler.num_waiting(), 0);
  EXPECT_EQ(scheduler.waiting_tokens(), 0);
  scheduler.Abort(1);  // runs
  scheduler.CheckIntegrity();
  EXPECT_EQ(scheduler.blocks().num_free(), 8);
  EXPECT_FALSE(scheduler.HasWork());
  scheduler.Abort(1);
  scheduler.Abort(77);
}

TEST(Scheduler, SamplesMayComeInAnyOrder) {
  Scheduler scheduler(Options(8, 2, 8), EvenCost(1));
  scheduler.Add(1, {Prompt(1), 9, Sampling()});
  scheduler.Add(2, {Prompt(3), 9, Sampling()});
  StepResult result = Answer(*scheduler.Schedule(), 50);
  result.samples[1].token = 51;
  std::swap(result.samples[0], result.samples[1]);
  const std::vector<SequenceProgress> progress = scheduler.Commit(result);
  ASSERT_EQ(progress.size(), 2u);
  EXPECT_EQ(progress[0].token->token, 50);
  EXPECT_EQ(progress[1].token->token, 51);
}

TEST(Scheduler, PrioritiesGoFirst) {
  Scheduler scheduler(Options(8, 1, 8), EvenCost(1));
  scheduler.Add(1, {Prompt(1), 1, Sampling(), 0});
  scheduler.Add(2, {Prompt(1), 1, Sampling(), -3});
  scheduler.Add(3, {Prompt(1), 1, Sampling(), 7});
  scheduler.Add(4, {Prompt(1), 1, Sampling(), 7});
  std::vector<SequenceId> order;
  while (scheduler.HasWork()) order.push_back(Step(scheduler, 50)[0].id);
  EXPECT_EQ(order, (std::vector<SequenceId>{3, 4, 1, 2}));
}

TEST(Scheduler, StartsAreTold) {
  Scheduler scheduler(Options(8, 1, 8), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 1, Sampling()});
  scheduler.Add(2, {Prompt(2), 1, Sampling()});
  Step(scheduler, 50);
  const std::vector<SequenceStart> started = scheduler.TakeStarted();
  ASSERT_EQ(started.size(), 1u);
  EXPECT_EQ(started[0].id, 1);
  EXPECT_TRUE(scheduler.TakeStarted().empty());
}

TEST(SchedulerDeathTest, AResultThatDoesNotFitIsOurMistake) {
  Scheduler scheduler(Options(8, 2, 8), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 9, Sampling()});
  const std::optional<StepPlan> plan = scheduler.Schedule();
  StepResult result = Answer(*plan, 50);
  result.number = 2;
  EXPECT_DEATH(scheduler.Commit(result), "number");
  result = Answer(*plan, 50);
  result.samples[0].position = 9;
  EXPECT_DEATH(scheduler.Commit(result), "position");
  result.samples.clear();
  EXPECT_DEATH(scheduler.Commit(result), "sample");
  result = Answer(*plan, 50);
  result.prompt_logprobs.emplace_back();
  EXPECT_DEATH(scheduler.Commit(result), "prompt_logprobs");
}

}  // namespace
}  // namespace penstock
