// Host time of the scheduler for one step: Schedule and Commit with every slot decoding.
// Usage: scheduler_bench [sequences [context]]; one line, medians over the steps.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/sched/scheduler.h"
#include "tests/support/pipeline_costs.h"

int main(int argc, char** argv) {
  using Clock = std::chrono::steady_clock;
  const int64_t sequences = argc > 1 ? std::atoll(argv[1]) : 256;
  const int64_t context = argc > 2 ? std::atoll(argv[2]) : 1024;
  const int64_t steps = 2000;

  penstock::SchedulerOptions options;
  options.max_sequences = sequences;
  options.max_step_tokens = sequences * context;
  options.num_blocks = sequences * penstock::BlocksFor(context + steps + 1);
  options.plans_ahead = 1;
  penstock::Scheduler scheduler(options, penstock::EvenCost(1));
  for (int64_t id = 1; id <= sequences; ++id) {
    scheduler.Add(id, {std::vector<int32_t>(context, 1), steps + 2});
  }

  std::vector<double> schedule_us;
  std::vector<double> commit_us;
  for (int64_t step = 0; step <= steps; ++step) {
    const Clock::time_point start = Clock::now();
    const auto plan = scheduler.Schedule();
    const Clock::time_point scheduled = Clock::now();
    PENSTOCK_CHECK(plan && static_cast<int64_t>(plan->rows.size()) == sequences);
    penstock::StepResult result;
    result.number = plan->number;
    for (const penstock::PlanRow& row : plan->rows) {
      penstock::SampledToken& sample = result.samples.emplace_back();
      sample.slot = row.slot;
      sample.generation = row.generation;
      sample.position = row.position + static_cast<int64_t>(row.tokens.size());
      sample.token = 1;
    }
    const Clock::time_point answered = Clock::now();
    const auto progress = scheduler.Commit(std::move(result));
    const Clock::time_point committed = Clock::now();
    PENSTOCK_CHECK_EQ(static_cast<int64_t>(progress.size()), sequences);
    if (step == 0) continue;  // the prefill
    schedule_us.push_back(std::chrono::duration<double, std::micro>(scheduled - start).count());
    commit_us.push_back(std::chrono::duration<double, std::micro>(committed - answered).count());
  }
  std::sort(schedule_us.begin(), schedule_us.end());
  std::sort(commit_us.begin(), commit_us.end());
  std::printf("sequences=%ld context=%ld steps=%ld schedule_us=%.1f commit_us=%.1f\n",
              static_cast<long>(sequences), static_cast<long>(context), static_cast<long>(steps),
              schedule_us[steps / 2], commit_us[steps / 2]);
  return 0;
}
