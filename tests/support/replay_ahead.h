// Plans that were recorded, through a stage that begins each before the one before it is finished
// wherever it can (StageExecutor::CanBegin): later than any pipeline would ask for the results.
#pragma once

#include <algorithm>
#include <vector>

#include "tests/support/status_matchers.h"
#include "worker/stage.h"

namespace penstock::testing {

struct Replay {
  std::vector<StepResult> results;
  int64_t ahead = 0;  // plans that were begun behind another
  int64_t fed = 0;    // of their rows, those that feed a token of that one
};

inline void ReplayAhead(StageExecutor& stage, const std::vector<StepPlan>& plans, Replay* replay) {
  ASSERT_TRUE(stage.runs_ahead());
  size_t finished = 0;
  const auto finish = [&] {
    absl::StatusOr<StepResult> result = stage.Finish();
    ASSERT_TRUE(IsOk(result));
    ASSERT_EQ(result->number, plans[finished++].number);
    replay->results.push_back(*std::move(result));
  };
  for (size_t n = 0; n < plans.size(); ++n) {
    while (!stage.CanBegin(plans[n])) {
      ASSERT_NO_FATAL_FAILURE(finish());
    }
    if (finished < n) {
      ++replay->ahead;
      for (const PlanRow& row : plans[n].rows) {
        replay->fed += row.token_from != 0 && row.token_from == plans[n - 1].number ? 1 : 0;
      }
    }
    ASSERT_TRUE(IsOk(stage.Begin(plans[n])));
    if (finished < n) {
      ASSERT_NO_FATAL_FAILURE(finish());
    }
  }
  while (finished < plans.size()) {
    ASSERT_NO_FATAL_FAILURE(finish());
  }
}

inline void ExpectSame(const std::vector<StepResult>& results,
                       const std::vector<StepResult>& expected) {
  ASSERT_EQ(results.size(), expected.size());
  for (size_t n = 0; n < results.size(); ++n) {
    ASSERT_EQ(results[n].samples.size(), expected[n].samples.size()) << "plan " << n;
    for (const SampledToken& sample : expected[n].samples) {
      const auto same =
          std::find_if(results[n].samples.begin(), results[n].samples.end(),
                       [&](const SampledToken& each) { return each.slot == sample.slot; });
      ASSERT_NE(same, results[n].samples.end()) << "plan " << n << ", slot " << sample.slot;
      EXPECT_EQ(same->generation, sample.generation);
      EXPECT_EQ(same->position, sample.position);
      EXPECT_EQ(same->token, sample.token) << "plan " << n << ", slot " << sample.slot;
      EXPECT_EQ(same->logprob, sample.logprob) << "plan " << n << ", slot " << sample.slot;
    }
  }
}

}  // namespace penstock::testing
