// Serves requests on a stage by way of a Scheduler, as the engine does, until each has ended.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "core/sched/scheduler.h"
#include "gtest/gtest.h"
#include "tests/support/pipeline_costs.h"
#include "worker/stage.h"

namespace penstock::testing {

struct StageRequest {
  std::vector<int32_t> prompt;
  int64_t max_tokens = 0;
  SamplingParams sampling;
};

struct StageAnswer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<std::vector<TokenLogprob>> tops;
  std::vector<PromptLogprob> prompt;
  SequenceEnd end = SequenceEnd::kNone;
};

// Answers in the order of the requests.
inline std::vector<StageAnswer> Serve(StageExecutor& stage, const SchedulerOptions& options,
                                      const std::vector<StageRequest>& requests) {
  Scheduler scheduler(options, EvenCost(1));
  std::vector<StageAnswer> answers(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    scheduler.Add(static_cast<SequenceId>(i),
                  {requests[i].prompt, requests[i].max_tokens, requests[i].sampling});
  }
  while (std::optional<StepPlan> plan = scheduler.Schedule()) {
    absl::StatusOr<StepResult> result = stage.Execute(*plan);
    if (!result.ok()) {
      ADD_FAILURE() << result.status();
      return answers;
    }
    for (SequenceProgress& step : scheduler.Commit(*std::move(result))) {
      StageAnswer& answer = answers[static_cast<size_t>(step.id)];
      answer.end = step.end;
      for (PromptLogprob& logprob : step.prompt_logprobs) {
        answer.prompt.push_back(std::move(logprob));
      }
      if (!step.token) continue;
      answer.tokens.push_back(step.token->token);
      answer.logprobs.push_back(step.token->logprob);
      answer.tops.push_back(std::move(step.token->top));
    }
  }
  return answers;
}

}  // namespace penstock::testing
