// Small requests and ready answers for tests of the scheduler's rules.
#pragma once

#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "core/sched/scheduler.h"

namespace penstock {

inline constexpr int32_t kEnd = 2;

inline SchedulerOptions Options(int64_t num_blocks, int64_t max_sequences, int64_t max_step_tokens,
                                int64_t plans_ahead = 1) {
  SchedulerOptions options;
  options.num_blocks = num_blocks;
  options.max_sequences = max_sequences;
  options.max_step_tokens = max_step_tokens;
  options.plans_ahead = plans_ahead;
  return options;
}

inline SamplingParams Sampling() {
  SamplingParams sampling;
  sampling.stop_ids = {0, kEnd};
  return sampling;
}

// 100, 101, ...: so that a token tells its position.
inline std::vector<int32_t> Prompt(int64_t length) {
  std::vector<int32_t> prompt(length);
  std::iota(prompt.begin(), prompt.end(), 100);
  return prompt;
}

// The stage's answer, `token` for every row that samples.
inline StepResult Answer(const StepPlan& plan, int32_t token) {
  StepResult result;
  result.number = plan.number;
  for (const PlanRow& row : plan.rows) {
    if (!row.sample) continue;
    SampledToken sample;
    sample.slot = row.slot;
    sample.generation = row.generation;
    sample.position = row.position + static_cast<int64_t>(row.tokens.size());
    sample.token = token;
    sample.logprob = -0.5f;
    result.samples.push_back(sample);
  }
  return result;
}

inline std::vector<SequenceProgress> Step(Scheduler& scheduler, int32_t token) {
  const std::optional<StepPlan> plan = scheduler.Schedule();
  if (!plan) return {};
  std::vector<SequenceProgress> progress = scheduler.Commit(Answer(*plan, token));
  scheduler.CheckIntegrity();
  return progress;
}

// Answers the targets too, the token itself as their log-probability.
inline StepResult AnswerTargets(const StepPlan& plan, int32_t token) {
  StepResult result = Answer(plan, token);
  for (const PlanRow& row : plan.rows) {
    for (size_t i = 0; i < row.targets.size(); ++i) {
      const int32_t target = row.targets[i];
      result.prompt_logprobs.push_back({row.slot,
                                        row.generation,
                                        row.position + 1 + static_cast<int64_t>(i),
                                        {target, -static_cast<float>(target)},
                                        {}});
    }
  }
  return result;
}

}  // namespace penstock
