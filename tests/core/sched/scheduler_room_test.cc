// Blocks: growth, preemption and exact resume, prefixes that are shared.
#include <gtest/gtest.h>

#include <optional>
#include <utility>
#include <vector>

#include "core/sched/scheduler.h"
#include "tests/support/pipeline_costs.h"
#include "tests/support/scheduler_steps.h"

namespace penstock {
namespace {

using Ids = std::vector<SequenceId>;

// Sequences that ask for `max_tokens` and end at once: the scheduler expects no more of others.
void TeachThatAnswersAreShort(Scheduler& scheduler) {
  for (SequenceId id = 1000; id < 1200; ++id) {
    scheduler.Add(id, {{1}, 50, Sampling()});
    Step(scheduler, kEnd);
  }
  scheduler.TakeStarted();
}

// Steps until something is preempted.
Ids StepUntilPreempted(Scheduler& scheduler) {
  for (int step = 0; step < 1000; ++step) {
    Step(scheduler, 50);
    if (Ids preempted = scheduler.TakePreempted(); !preempted.empty()) return preempted;
  }
  return {};
}

std::vector<SequenceId> Running(const std::vector<SequenceProgress>& progress) {
  Ids ids;
  for (const SequenceProgress& each : progress) ids.push_back(each.id);
  return ids;
}

TEST(SchedulerRoom, BlocksComeAsPositionsArePlanned) {
  Scheduler scheduler(Options(8, 2, 256, 2), EvenCost(1));
  scheduler.Add(1, {Prompt(63), 100, Sampling()});
  scheduler.Schedule();
  EXPECT_EQ(scheduler.blocks().num_owned(), 1);
  scheduler.Schedule();  // position 63
  EXPECT_EQ(scheduler.blocks().num_owned(), 1);
  scheduler.BeginEpoch();
  EXPECT_EQ(scheduler.blocks().num_owned(), 0);
  scheduler.Add(2, {Prompt(64), 100, Sampling(), 1});
  scheduler.Schedule();
  EXPECT_EQ(scheduler.blocks().num_owned(), 2);
  scheduler.Schedule();  // position 64, before its token is known
  EXPECT_EQ(scheduler.blocks().num_owned(), 3);
  scheduler.CheckIntegrity();
}

TEST(SchedulerRoom, WithoutExperienceWholeNeedsAreExpected) {
  Scheduler scheduler(Options(5, 4, 256), EvenCost(1));
  for (SequenceId id : {1, 2}) scheduler.Add(id, {Prompt(60), 200, Sampling()});
  EXPECT_EQ(Step(scheduler, 50).size(), 1u);
}

TEST(SchedulerRoom, TheYoungestMakesRoomAndIsResumedExactly) {
  Scheduler scheduler(Options(5, 4, 256), EvenCost(1));
  TeachThatAnswersAreShort(scheduler);
  for (SequenceId id : {1, 2, 3}) {
    SequenceRequest request = {Prompt(60), 200, Sampling()};
    request.sampling.frequency_penalty = 1;
    request.prompt[0] = static_cast<int32_t>(id);  // no prefix in common
    scheduler.Add(id, request);
  }
  for (int step = 0; step < 5; ++step) EXPECT_EQ(Step(scheduler, 50).size(), 3u);
  // Six blocks are needed for position 64 of all: the youngest pauses, and keeps what it has.
  EXPECT_EQ(Running(Step(scheduler, 50)), (Ids{1, 2}));
  EXPECT_EQ(scheduler.num_running(), 3);
  EXPECT_EQ(scheduler.preemptions(), 0);
  // The oldest needs its third.
  EXPECT_EQ(StepUntilPreempted(scheduler), Ids{3});
  EXPECT_EQ(scheduler.num_waiting(), 1);
  EXPECT_EQ(scheduler.preemptions(), 1);
  // And its fourth, though the other cannot go on without one more.
  EXPECT_EQ(StepUntilPreempted(scheduler), Ids{2});

  scheduler.Abort(1);
  const std::optional<StepPlan> plan = scheduler.Schedule();
  ASSERT_GE(plan->admissions.size(), 1u);
  const std::vector<int32_t>& history = plan->admissions[0].history;
  ASSERT_EQ(history.size(), 60u + 69u);  // of the second, which is older
  EXPECT_EQ(history[0], 2);
  EXPECT_EQ(history[59], 159);
  EXPECT_EQ(history[60], 50);
  const PlanRow& row = plan->rows[0];
  // Of its two full blocks the oldest took one; the other is still there.
  EXPECT_EQ(row.position, 64);
  EXPECT_EQ(row.tokens, std::vector<int32_t>(65, 50));
  EXPECT_TRUE(row.sample);
  EXPECT_EQ(scheduler.Commit(Answer(*plan, 51))[0].token->position, 129);
  scheduler.CheckIntegrity();
}

TEST(SchedulerRoom, TheLowestPriorityMakesRoomButNeverTheOldest) {
  Scheduler scheduler(Options(5, 4, 256), EvenCost(1));
  TeachThatAnswersAreShort(scheduler);
  int32_t priority = -1;
  for (SequenceId id : {1, 2, 3}) {
    SequenceRequest request = {Prompt(60), 200, Sampling(), priority++};
    request.prompt[0] = static_cast<int32_t>(id);
    scheduler.Add(id, request);
    Step(scheduler, 50);
  }
  EXPECT_EQ(StepUntilPreempted(scheduler), Ids{2});
  EXPECT_EQ(StepUntilPreempted(scheduler), Ids{3});
  while (scheduler.HasWork()) ASSERT_FALSE(Step(scheduler, 50).empty());
}

// It may be the one that has killed the stage, though it holds nothing any more.
TEST(SchedulerRoom, ANewEpochTellsOfThePreemptedOnesThatWereInFlight) {
  Scheduler scheduler(Options(6, 4, 256, 2), EvenCost(1));
  TeachThatAnswersAreShort(scheduler);
  for (SequenceId id : {1, 2, 3}) {
    SequenceRequest request = {Prompt(id == 3 ? 30 : 60), 200, Sampling()};
    request.prompt[0] = static_cast<int32_t>(id);
    scheduler.Add(id, request);
  }
  StepPlan last = *scheduler.Schedule();
  Ids preempted;
  while (preempted.empty()) {
    StepPlan next = *scheduler.Schedule();
    preempted = scheduler.TakePreempted();
    if (!preempted.empty()) break;
    scheduler.Commit(Answer(last, 50));
    last = std::move(next);
  }
  EXPECT_EQ(preempted, Ids{3});
  EXPECT_EQ(last.rows.size(), 3u);
  EXPECT_EQ(scheduler.BeginEpoch(), (Ids{1, 2, 3}));
  scheduler.CheckIntegrity();
  EXPECT_EQ(scheduler.num_waiting(), 3);
}

TEST(SchedulerRoom, APrefixIsFoundByThoseWhoShareIt) {
  Scheduler scheduler(Options(20, 4, 256), EvenCost(1));
  scheduler.Add(1, {Prompt(150), 1, Sampling()});
  Step(scheduler, 50);
  EXPECT_EQ(scheduler.blocks().num_cached(), 2);
  EXPECT_EQ(scheduler.blocks().num_owned(), 0);
  EXPECT_EQ(scheduler.prefix_lookup_tokens(), 150);
  EXPECT_EQ(scheduler.prefix_hit_tokens(), 0);
  EXPECT_EQ(scheduler.TakeStarted()[0].cached_tokens, 0);

  // Two blocks are full; of a prompt of 128 the last token is fed all the same.
  scheduler.Add(2, {Prompt(150), 5, Sampling()});
  scheduler.Add(3, {Prompt(128), 5, Sampling()});
  const std::optional<StepPlan> plan = scheduler.Schedule();
  EXPECT_EQ(plan->rows[0].position, 128);
  EXPECT_EQ(plan->rows[0].tokens.size(), 22u);
  EXPECT_EQ(plan->rows[1].position, 64);
  EXPECT_EQ(plan->rows[1].tokens.size(), 64u);
  EXPECT_EQ(plan->rows[0].blocks[0], plan->rows[1].blocks[0]);
  EXPECT_NE(plan->rows[0].blocks[1], plan->rows[1].blocks[1]);  // it is written to
  EXPECT_EQ(scheduler.blocks().references(plan->rows[0].blocks[0]), 2);
  EXPECT_EQ(scheduler.prefix_hit_tokens(), 128 + 64);
  const std::vector<SequenceStart> started = scheduler.TakeStarted();
  EXPECT_EQ(started[0].cached_tokens, 128);
  EXPECT_EQ(started[1].cached_tokens, 64);
  scheduler.CheckIntegrity();
}

TEST(SchedulerRoom, AnAnswersBlocksAreFoundByTheNextTurnOfItsChat) {
  Scheduler scheduler(Options(20, 4, 256, 2), EvenCost(1));
  scheduler.Add(1, {Prompt(60), 10, Sampling()});
  while (scheduler.HasWork()) Step(scheduler, 50);
  SequenceRequest next = {Prompt(60), 10, Sampling()};
  next.prompt.resize(80, 50);
  scheduler.Add(2, next);
  EXPECT_EQ(scheduler.Schedule()->rows[0].position, 64);
}

// Where the next row of `request` begins, once another one with its prompt has ended with `token`.
int64_t FirstPosition(SchedulerOptions options, const SequenceRequest& before, int32_t token,
                      const SequenceRequest& request) {
  Scheduler scheduler(options, EvenCost(1));
  scheduler.Add(1, before);
  while (scheduler.HasWork()) scheduler.Commit(AnswerTargets(*scheduler.Schedule(), token));
  scheduler.CheckIntegrity();
  scheduler.Add(2, request);
  return scheduler.Schedule()->rows[0].position;
}

TEST(SchedulerRoom, APrefixIsNotForEverybody) {
  const SchedulerOptions options = Options(20, 4, 256);
  const SequenceRequest request = {Prompt(150), 1, Sampling()};
  EXPECT_EQ(FirstPosition(options, request, 50, request), 128);
  SequenceRequest other = request;
  other.tenant = 1;
  EXPECT_EQ(FirstPosition(options, request, 50, other), 0);
  other = request;
  other.sampling.prompt_logprobs = 0;
  EXPECT_EQ(FirstPosition(options, request, 50, other), 0);
  EXPECT_EQ(FirstPosition(options, other, 50, request), 128);
  other = request;
  other.prompt[70] = 5;
  EXPECT_EQ(FirstPosition(options, request, 50, other), 64);
  // What a sequence without numbers has computed is not trusted, also of chunks before.
  EXPECT_EQ(FirstPosition(Options(20, 4, 64), request, 50, request), 128);
  EXPECT_EQ(FirstPosition(Options(20, 4, 64), request, kNoToken, request), 0);
  SchedulerOptions without = options;
  without.prefix_cache = false;
  EXPECT_EQ(FirstPosition(without, request, 50, request), 0);
}

TEST(SchedulerRoom, ANewEpochHasNoPrefixes) {
  Scheduler scheduler(Options(20, 4, 256), EvenCost(1));
  scheduler.Add(1, {Prompt(150), 1, Sampling()});
  Step(scheduler, 50);
  scheduler.BeginEpoch();
  EXPECT_EQ(scheduler.blocks().num_free(), 20);
  scheduler.Add(2, {Prompt(150), 1, Sampling()});
  EXPECT_EQ(scheduler.Schedule()->rows[0].position, 0);
}

TEST(SchedulerRoom, CachedBlocksGiveWayTheLongestUnusedFirst) {
  Scheduler scheduler(Options(6, 4, 256), EvenCost(1));
  SequenceRequest first = {Prompt(130), 1, Sampling()};
  SequenceRequest second = first;
  second.prompt[0] = 1;
  scheduler.Add(1, first);
  Step(scheduler, 50);
  scheduler.Add(2, second);
  Step(scheduler, 50);
  EXPECT_EQ(scheduler.blocks().num_cached(), 4);
  // Four blocks: the two free ones, then the end of the first prefix, then its begin.
  SequenceRequest third = {Prompt(190), 1, Sampling()};
  third.prompt[0] = 2;
  scheduler.Add(3, third);
  EXPECT_EQ(Step(scheduler, 50)[0].end, SequenceEnd::kLength);
  scheduler.CheckIntegrity();
  scheduler.Add(4, first);
  EXPECT_EQ(scheduler.Schedule()->rows[0].position, 64);
}

TEST(SchedulerRoom, PromptsAreCutEvenlyOverStages) {
  SchedulerOptions options = Options(64, 4, 1024, 6);
  options.num_stages = 3;
  Scheduler scheduler(options, EvenCost(3, 20'000));
  scheduler.Add(1, {Prompt(800), 5, Sampling()});
  std::vector<int64_t> chunks;
  while (std::optional<StepPlan> plan = scheduler.Schedule()) chunks.push_back(plan->num_tokens());
  ASSERT_EQ(chunks.size(), 6u);
  EXPECT_LE(chunks[0], 200);
  EXPECT_GE(chunks[0], 50);
  for (int64_t chunk : chunks) EXPECT_EQ(chunk, chunks[0]);

  // Where a plan costs much more than its tokens, cutting does not pay.
  Scheduler dear(options, EvenCost(3, 20'000'000));
  dear.Add(1, {Prompt(800), 5, Sampling()});
  EXPECT_EQ(dear.Schedule()->num_tokens(), 800);
}

}  // namespace
}  // namespace penstock
