// Host time of the scheduler for one step, Schedule and Commit, with every sequence decoding two
// plans ahead and prefixes being entered into the cache.
// Usage: scheduler_bench [sequences [context]]. Lines: nobody waits; one waits for blocks, so that
// every step looks for room; four stages with the decodes in groups. Medians and 99th percentiles.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/sched/scheduler.h"
#include "tests/support/pipeline_costs.h"

namespace penstock {
namespace {

StepResult Answer(const StepPlan& plan) {
  StepResult result;
  result.number = plan.number;
  for (const PlanRow& row : plan.rows) {
    if (!row.sample) continue;
    SampledToken& sample = result.samples.emplace_back();
    sample.slot = row.slot;
    sample.generation = row.generation;
    sample.position = row.position + static_cast<int64_t>(row.tokens.size());
    sample.token = 1;
  }
  return result;
}

void Run(const char* name, int64_t sequences, int64_t context, int64_t stages, bool has_waiter) {
  using Clock = std::chrono::steady_clock;
  const int64_t steps = 4000;
  SchedulerOptions options;
  options.num_stages = stages;
  options.plans_ahead = 2 * stages;
  options.max_sequences = sequences + 1;
  options.max_step_tokens = (sequences + 1) * (context + kBlockSize);
  // What they need, and no more.
  options.num_blocks = 8;
  for (int64_t id = 1; id <= sequences; ++id) {
    options.num_blocks += BlocksFor(context + id % kBlockSize + steps + 1);
  }
  Scheduler scheduler(options, EvenCost(stages));
  for (int64_t id = 1; id <= sequences; ++id) {
    // So that not all fill a block in the same step.
    std::vector<int32_t> prompt(static_cast<size_t>(context + id % kBlockSize), 1);
    prompt[0] = static_cast<int32_t>(id);
    scheduler.Add(id, {std::move(prompt), steps + 2});
  }
  std::deque<StepPlan> plans;
  std::vector<double> times;
  while (scheduler.HasWork() && static_cast<int64_t>(times.size()) < steps) {
    if (has_waiter && scheduler.num_waiting() == 0 && times.size() == 8) {
      scheduler.Add(0, {std::vector<int32_t>(static_cast<size_t>(context), 0), steps});
    }
    Clock::time_point start = Clock::now();
    std::optional<StepPlan> plan = scheduler.Schedule();
    Clock::duration taken = Clock::now() - start;
    if (plan) {
      plans.push_back(*std::move(plan));
      if (scheduler.CanSchedule()) continue;  // to begin with
    }
    StepResult result = Answer(plans.front());
    const int64_t tokens = plans.front().num_tokens();
    const auto rows = static_cast<int64_t>(plans.front().rows.size());
    plans.pop_front();
    start = Clock::now();
    const std::vector<SequenceProgress> progress = scheduler.Commit(std::move(result));
    taken += Clock::now() - start;
    if (has_waiter && times.size() > 8 && scheduler.num_waiting() == 0) break;  // it fits now
    if (tokens > rows) continue;  // prompts are being fed
    PENSTOCK_CHECK_EQ(static_cast<int64_t>(progress.size()), rows);
    times.push_back(std::chrono::duration<double, std::micro>(taken).count());
  }
  PENSTOCK_CHECK_EQ(scheduler.preemptions(), 0);
  PENSTOCK_CHECK_GE(static_cast<int64_t>(times.size()), steps / 2);
  std::sort(times.begin(), times.end());
  std::printf("%-12s sequences=%ld context=%ld stages=%ld steps=%zu: p50 %.1f us, p99 %.1f us\n",
              name, sequences, context, stages, times.size(), times[times.size() / 2],
              times[times.size() * 99 / 100]);
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  const int64_t sequences = argc > 1 ? std::atoll(argv[1]) : 256;
  const int64_t context = argc > 2 ? std::atoll(argv[2]) : 1024;
  penstock::Run("steady", sequences, context, 1, false);
  penstock::Run("one waits", sequences, context, 1, true);
  penstock::Run("four stages", sequences, context, 4, false);
  return 0;
}
