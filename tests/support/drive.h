// Drives several sequences side by side through a stage, each with its own prompt, chunks and
// sampling, as a scheduler would.
#pragma once

#include <algorithm>
#include <vector>

#include "tests/support/model_runner.h"
#include "tests/support/status_matchers.h"
#include "worker/stage.h"

namespace penstock::testing {

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;

  friend bool operator==(const Answer& a, const Answer& b) {
    return a.tokens == b.tokens && a.logprobs == b.logprobs;
  }
};

struct Driven {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int64_t chunk = 64;      // tokens of the prompt a step
  bool no_single = false;  // no chunk of one token while the prompt is fed
  int64_t delay = 0;       // steps before it begins

  int64_t fed = 0;
  Answer answer;

  int64_t known() const { return static_cast<int64_t>(prompt.size() + answer.tokens.size()); }
  // Tokens of the next row.
  int64_t Next() const {
    int64_t count = std::min(chunk, known() - fed);
    if (no_single && fed < static_cast<int64_t>(prompt.size()) && known() - fed - count == 1) {
      ++count;
    }
    return count;
  }
  int32_t TokenAt(int64_t position) const {
    const auto at = static_cast<size_t>(position);
    return at < prompt.size() ? prompt[at] : answer.tokens[at - prompt.size()];
  }
};

// Until every sequence has `answer_tokens`. The stage must take all rows at once, and `context`
// positions a sequence.
inline void Drive(StageExecutor& stage, std::vector<Driven>& sequences, size_t answer_tokens,
                  int64_t context) {
  static uint64_t number = 0;
  static uint32_t generation = 0;
  ++generation;
  const auto done = [&](const Driven& s) { return s.answer.tokens.size() == answer_tokens; };
  for (int64_t step = 0; !std::all_of(sequences.begin(), sequences.end(), done); ++step) {
    StepPlan plan;
    plan.number = ++number;
    for (size_t i = 0; i < sequences.size(); ++i) {
      Driven& sequence = sequences[i];
      if (step < sequence.delay || done(sequence)) continue;
      const auto slot = static_cast<int32_t>(i);
      if (sequence.fed == 0) {
        Admission admission;
        admission.slot = slot;
        admission.generation = generation;
        admission.sampling = sequence.sampling;
        admission.prompt_tokens = static_cast<int64_t>(sequence.prompt.size());
        if (sequence.sampling.needs_history()) admission.history = sequence.prompt;
        plan.admissions.push_back(std::move(admission));
      }
      PlanRow row;
      row.slot = slot;
      row.generation = generation;
      row.position = sequence.fed;
      for (int64_t count = sequence.Next(); count > 0; --count) {
        row.tokens.push_back(sequence.TokenAt(sequence.fed++));
      }
      row.sample = sequence.fed == sequence.known();
      row.blocks = BlocksOfSlot(slot, sequence.fed, context);
      plan.rows.push_back(std::move(row));
    }
    if (plan.rows.empty()) continue;
    const absl::StatusOr<StepResult> result = stage.Execute(plan);
    ASSERT_TRUE(IsOk(result));
    for (const SampledToken& sample : result->samples) {
      Driven& sequence = sequences[static_cast<size_t>(sample.slot)];
      ASSERT_EQ(sample.position, sequence.fed);
      sequence.answer.tokens.push_back(sample.token);
      sequence.answer.logprobs.push_back(sample.logprob);
    }
  }
}

}  // namespace penstock::testing
