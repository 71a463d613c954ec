// Cost models for tests of scheduling.
#pragma once

#include <cstdint>
#include <vector>

#include "core/sched/cost_model.h"

namespace penstock {

// Stages of which a plan costs `plan_ns` and each token 1000 ns.
inline PipelineCost EvenCost(int64_t num_stages, int64_t plan_ns = 100'000) {
  StageWork work;
  work.flops_per_token = 1000;
  MachineRates rates;
  rates.flops_per_second = 1'000'000'000;
  rates.plan_overhead_ns = plan_ns;
  return PipelineCost(std::vector<StageCost>(num_stages, StageCost(work, rates)));
}

}  // namespace penstock
