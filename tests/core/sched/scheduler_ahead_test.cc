// Plans in flight: rows ahead of their tokens, stages that take turns, epochs, suspects.
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "core/sched/scheduler.h"
#include "tests/support/pipeline_costs.h"
#include "tests/support/scheduler_steps.h"

namespace penstock {
namespace {

TEST(SchedulerAhead, AbortFreesAtOnceWithRowsInFlight) {
  Scheduler scheduler(Options(2, 1, 8, 3), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 9, Sampling()});
  const std::optional<StepPlan> first = scheduler.Schedule();
  const std::optional<StepPlan> second = scheduler.Schedule();
  scheduler.Abort(1);
  scheduler.CheckIntegrity();
  EXPECT_EQ(scheduler.blocks().num_free(), 2);
  EXPECT_FALSE(scheduler.HasWork());

  // Slot and block go to the next one, behind the plans that hold the old rows.
  scheduler.Add(2, {Prompt(3), 9, Sampling()});
  const std::optional<StepPlan> third = scheduler.Schedule();
  ASSERT_TRUE(third.has_value());
  EXPECT_EQ(third->rows[0].slot, first->rows[0].slot);
  EXPECT_EQ(third->rows[0].blocks, first->rows[0].blocks);
  EXPECT_EQ(third->rows[0].generation, first->rows[0].generation + 1);
  EXPECT_TRUE(scheduler.Commit(Answer(*first, 50)).empty());
  EXPECT_TRUE(scheduler.Commit(Answer(*second, 51)).empty());
  const std::vector<SequenceProgress> progress = scheduler.Commit(Answer(*third, 52));
  ASSERT_EQ(progress.size(), 1u);
  EXPECT_EQ(progress[0].id, 2);
  scheduler.CheckIntegrity();
}

TEST(SchedulerAhead, ARowFeedsWhatAPlanInFlightSamples) {
  Scheduler scheduler(Options(8, 2, 8, 3), EvenCost(1));
  scheduler.Add(1, {Prompt(4), 9, Sampling()});
  const std::optional<StepPlan> first = scheduler.Schedule();
  const std::optional<StepPlan> second = scheduler.Schedule();
  const std::optional<StepPlan> third = scheduler.Schedule();
  EXPECT_FALSE(scheduler.Schedule().has_value());  // three are in flight
  EXPECT_FALSE(scheduler.CanSchedule());
  EXPECT_EQ(scheduler.num_in_flight(), 3);
  EXPECT_EQ(first->rows[0].token_from, 0u);
  EXPECT_TRUE(second->admissions.empty());
  EXPECT_EQ(second->rows[0].tokens, std::vector<int32_t>{kNoToken});
  EXPECT_EQ(second->rows[0].token_from, 1u);
  EXPECT_EQ(second->rows[0].position, 4);
  EXPECT_TRUE(second->rows[0].sample);
  EXPECT_EQ(third->rows[0].token_from, 2u);
  EXPECT_EQ(third->rows[0].position, 5);
  scheduler.CheckIntegrity();

  EXPECT_EQ(scheduler.Commit(Answer(*first, 50))[0].token->position, 4);
  EXPECT_EQ(scheduler.Commit(Answer(*second, 51))[0].token->position, 5);
  EXPECT_EQ(scheduler.Commit(Answer(*third, 52))[0].token->position, 6);
  scheduler.CheckIntegrity();
  // Nothing is in flight: the token is known.
  const std::optional<StepPlan> fourth = scheduler.Schedule();
  EXPECT_EQ(fourth->rows[0].tokens, std::vector<int32_t>{52});
  EXPECT_EQ(fourth->rows[0].token_from, 0u);
}

TEST(SchedulerAhead, ChunksOfAPromptRunAheadOfEachOther) {
  Scheduler scheduler(Options(8, 2, 8, 4), EvenCost(1));
  scheduler.Add(1, {Prompt(20), 9, Sampling()});
  std::vector<StepPlan> plans;
  while (std::optional<StepPlan> plan = scheduler.Schedule()) plans.push_back(*plan);
  ASSERT_EQ(plans.size(), 4u);
  EXPECT_EQ(plans[1].rows[0].position, 8);
  EXPECT_EQ(plans[2].rows[0].position, 16);
  EXPECT_TRUE(plans[2].rows[0].sample);
  EXPECT_EQ(plans[3].rows[0].position, 20);
  EXPECT_EQ(plans[3].rows[0].token_from, 3u);
}

TEST(SchedulerAhead, NothingIsPlannedBeyondMaxTokens) {
  Scheduler scheduler(Options(8, 2, 8, 4), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 2, Sampling()});
  const std::optional<StepPlan> first = scheduler.Schedule();
  const std::optional<StepPlan> second = scheduler.Schedule();
  EXPECT_FALSE(scheduler.Schedule().has_value());
  EXPECT_EQ(scheduler.Commit(Answer(*first, 50))[0].end, SequenceEnd::kNone);
  EXPECT_FALSE(scheduler.Schedule().has_value());
  EXPECT_EQ(scheduler.Commit(Answer(*second, 51))[0].end, SequenceEnd::kLength);
}

TEST(SchedulerAhead, WhatIsInFlightBehindAStopIsDropped) {
  Scheduler scheduler(Options(8, 1, 8, 3), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 9, Sampling()});
  const std::optional<StepPlan> first = scheduler.Schedule();
  const std::optional<StepPlan> second = scheduler.Schedule();
  EXPECT_EQ(scheduler.Commit(Answer(*first, kEnd))[0].end, SequenceEnd::kStop);
  EXPECT_EQ(scheduler.blocks().num_free(), 8);
  EXPECT_TRUE(scheduler.Commit(Answer(*second, kVoidToken)).empty());
  scheduler.CheckIntegrity();
}

// A stage that ends a sequence which lives here has gone wrong; only that sequence pays.
TEST(SchedulerAhead, AVoidSampleOfALivingSequenceFailsIt) {
  Scheduler scheduler(Options(8, 2, 8), EvenCost(1));
  scheduler.Add(1, {Prompt(2), 9, Sampling()});
  EXPECT_EQ(Step(scheduler, kVoidToken)[0].end, SequenceEnd::kFailed);
  EXPECT_FALSE(scheduler.HasWork());
}

TEST(SchedulerAhead, ANewEpochResumesFromWhatWasCommitted) {
  Scheduler scheduler(Options(8, 2, 64, 3), EvenCost(1));
  SamplingParams penalized = Sampling();
  penalized.frequency_penalty = 1;
  scheduler.Add(1, {Prompt(3), 9, penalized});
  Step(scheduler, 50);
  Step(scheduler, 51);
  const std::optional<StepPlan> lost = scheduler.Schedule();
  scheduler.Schedule();
  scheduler.Add(2, {Prompt(3), 9, Sampling()});
  EXPECT_EQ(scheduler.BeginEpoch(), std::vector<SequenceId>{1});
  scheduler.CheckIntegrity();
  EXPECT_EQ(scheduler.num_in_flight(), 0);
  EXPECT_EQ(scheduler.num_waiting(), 2);
  EXPECT_EQ(scheduler.blocks().num_free(), 8);

  const std::optional<StepPlan> plan = scheduler.Schedule();
  EXPECT_EQ(plan->number, 5u);  // numbers go on
  ASSERT_EQ(plan->admissions.size(), 2u);
  EXPECT_EQ(plan->admissions[0].prompt_tokens, 3);
  EXPECT_EQ(plan->admissions[0].history, (std::vector<int32_t>{100, 101, 102, 50, 51}));
  EXPECT_EQ(plan->rows[0].tokens, (std::vector<int32_t>{100, 101, 102, 50, 51}));
  EXPECT_TRUE(plan->rows[0].sample);
  EXPECT_NE(plan->rows[0].generation, lost->rows[0].generation);
  const std::vector<SequenceProgress> progress = scheduler.Commit(Answer(*plan, 52));
  EXPECT_EQ(progress[0].token->position, 5);
  EXPECT_TRUE(scheduler.TakePreempted().empty());  // nobody's fault
}

TEST(SchedulerAhead, APromptsLogProbabilitiesAreToldOnceOverEpochs) {
  Scheduler scheduler(Options(8, 2, 5), EvenCost(1));
  SamplingParams sampling = Sampling();
  sampling.prompt_logprobs = 0;
  scheduler.Add(1, {Prompt(13), 9, sampling});
  std::vector<int64_t> told;
  const auto step = [&] {
    for (const SequenceProgress& each :
         scheduler.Commit(AnswerTargets(*scheduler.Schedule(), 50))) {
      for (const PromptLogprob& logprob : each.prompt_logprobs) told.push_back(logprob.position);
    }
    scheduler.CheckIntegrity();
  };
  step();
  scheduler.Schedule();
  scheduler.BeginEpoch();
  const std::optional<StepPlan> again = scheduler.Schedule();
  EXPECT_TRUE(again->rows[0].targets.empty());  // all were told
  EXPECT_EQ(again->rows[0].tokens.size(), 5u);
  scheduler.Commit(AnswerTargets(*again, 50));
  while (scheduler.num_in_flight() == 0 && told.size() < 12) step();
  EXPECT_EQ(told, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
}

// Stages that take turns: a row does not feed what the plan right before it samples, or every stage
// would wait for that. Prompts that come at any time mix up whose turn it is.
TEST(SchedulerAhead, PlansOfOtherGroupsComeBetweenTwoRowsOfASequence) {
  SchedulerOptions options = Options(512, 16, 64, 4);
  options.num_stages = 2;
  Scheduler scheduler(options, EvenCost(2, 20'000));
  std::mt19937 random(1);
  std::deque<StepPlan> plans;
  SequenceId last = 0;
  int64_t fed = 0;
  int64_t waiting = 0;  // of them, for the plan right before
  for (int step = 0; step < 1000; ++step) {
    while (scheduler.num_running() + scheduler.num_waiting() < 12) {
      scheduler.Add(++last, {Prompt(1 + static_cast<int64_t>(random() % 40)),
                             4 + static_cast<int64_t>(random() % 30), Sampling()});
    }
    while (const std::optional<StepPlan> plan = scheduler.Schedule()) {
      for (const PlanRow& row : plan->rows) {
        if (row.token_from == 0) continue;
        ++fed;
        if (row.token_from == plan->number - 1) ++waiting;
      }
      plans.push_back(*plan);
    }
    scheduler.Commit(Answer(plans.front(), 50));
    plans.pop_front();
  }
  EXPECT_GT(fed, 3000);
  EXPECT_LT(waiting, fed / 100);  // while there is only one to decode, it has to
}

TEST(SchedulerAhead, ASuspectIsInFlightAlone) {
  Scheduler scheduler(Options(8, 4, 32, 2), EvenCost(1));
  for (SequenceId id : {1, 2, 3}) scheduler.Add(id, {Prompt(2), 5, Sampling()});
  scheduler.SetSuspect(2, true);
  scheduler.SetSuspect(77, true);
  std::deque<StepPlan> plans;
  std::map<SequenceId, int> tokens;
  int alone = 0;
  while (scheduler.HasWork()) {
    while (std::optional<StepPlan> plan = scheduler.Schedule()) plans.push_back(*plan);
    ASSERT_FALSE(plans.empty());
    for (const SequenceProgress& each : scheduler.Commit(Answer(plans.front(), 50))) {
      ++tokens[each.id];
      if (each.id != 2) continue;
      ++alone;
      EXPECT_EQ(plans.size(), 1u);
      EXPECT_EQ(plans.front().rows.size(), 1u);
      if (each.end == SequenceEnd::kNone) {
        // Nobody waits for the end of the other.
        EXPECT_GE(tokens[1] + 1, tokens[2]);
      }
    }
    plans.pop_front();
    scheduler.CheckIntegrity();
  }
  EXPECT_EQ(alone, 5);
  EXPECT_EQ(tokens, (std::map<SequenceId, int>{{1, 5}, {2, 5}, {3, 5}}));
}

TEST(SchedulerAhead, ASuspectThatIsClearedRunsWithTheOthersAgain) {
  Scheduler scheduler(Options(8, 4, 32), EvenCost(1));
  for (SequenceId id : {1, 2}) scheduler.Add(id, {Prompt(2), 9, Sampling()});
  scheduler.SetSuspect(1, true);
  EXPECT_EQ(Step(scheduler, 50).size(), 1u);
  EXPECT_EQ(Step(scheduler, 50).size(), 1u);
  scheduler.SetSuspect(1, false);
  EXPECT_EQ(Step(scheduler, 50).size(), 2u);
}

TEST(SchedulerAhead, StagesTakeTurnsWithTheDecodes) {
  SchedulerOptions options = Options(64, 8, 32, 4);
  options.num_stages = 2;
  // Rows cost more than plans: two groups keep both stages busy.
  Scheduler scheduler(options, EvenCost(2, 1));
  for (SequenceId id = 1; id <= 6; ++id) scheduler.Add(id, {Prompt(1), 40, Sampling()});
  Step(scheduler, 50);
  std::deque<StepPlan> plans;
  for (int step = 0; step < 20; ++step) {
    while (std::optional<StepPlan> plan = scheduler.Schedule()) plans.push_back(*plan);
    ASSERT_EQ(plans.size(), 4u);
    EXPECT_EQ(plans.back().rows.size(), 3u);
    // Two plans that follow each other hold all.
    std::set<int32_t> slots;
    for (const StepPlan* plan : {&plans[2], &plans[3]}) {
      for (const PlanRow& row : plan->rows) slots.insert(row.slot);
    }
    EXPECT_EQ(slots.size(), 6u);
    scheduler.Commit(Answer(plans.front(), 50));
    plans.pop_front();
    scheduler.CheckIntegrity();
  }
}

TEST(SchedulerAhead, ThePlansCostIsPredictedAndLearnt) {
  Scheduler scheduler(Options(8, 2, 32), EvenCost(1, 5'000'000));
  scheduler.Add(1, {Prompt(2), 60, Sampling()});
  Step(scheduler, 50);
  const int64_t before = scheduler.PredictNs(1);
  EXPECT_GT(before, 5'000'000);
  EXPECT_EQ(scheduler.PredictNs(0), 0);
  EXPECT_EQ(scheduler.PredictNs(2), 0);
  for (uint64_t plan = 2; plan < 50; ++plan) {
    Step(scheduler, 50);
    scheduler.Observe(0, plan, 1'000'000);
  }
  scheduler.Observe(0, 1000, 1);  // no such plan
  EXPECT_LT(scheduler.PredictNs(49), 2'000'000);
}

}  // namespace
}  // namespace penstock
