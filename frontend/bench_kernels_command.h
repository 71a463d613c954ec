// `penstock bench kernels`: checks and times each kernel at the shapes of a model, and tells what
// share of the device's own ceilings it reaches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/sched/stage_types.h"

namespace penstock {

struct BenchKernelsOptions {
  StageOptions stage;            // model (whose shapes count), device, precision, threads
  std::vector<int64_t> tokens;   // of steps
  std::vector<int64_t> prompts;  // tokens, of prefill attention
  int64_t context = 1024;        // of decode attention
  std::string json;              // a file for the figures; empty: none
};

// The program's exit code: 1 if a kernel failed or its result was wrong. Figures go to standard
// output, a line a kernel as it comes.
int RunBenchKernels(const BenchKernelsOptions& options);

}  // namespace penstock
