// `penstock bench model`: loads a model into this process, checks and times single steps of its
// stage, as the engine runs them but without engine and service, and tells what share of the
// device's own ceilings they reach.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/sched/stage_types.h"

namespace penstock {

struct BenchModelOptions {
  StageOptions stage;  // model, device, precision, threads; its room is what the cases need
  int64_t kv_memory_bytes = 0;  // 0: what the cases need; else they must fit
  std::vector<std::string> cases;
  int64_t steps = 20;  // timed, of each case
  std::string json;    // a file for the figures; empty: none
};

// The program's exit code: 1 if a case failed or its results were wrong. Figures go to standard
// output, a line a case as it comes.
int RunBenchModel(const BenchModelOptions& options);

}  // namespace penstock
