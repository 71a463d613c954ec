// `penstock replay`: the plans of a flight record, run again on the CPU backend.
#pragma once

#include <string>

namespace penstock {

struct ReplayOptions {
  std::string file;
  std::string model;  // empty: where it lay when it was recorded
  int threads = 0;    // 0: one a core
};

// The program's exit code: 0 if all is as it was recorded, 1 for errors, 3 for a difference.
int RunReplay(const ReplayOptions& options);

}  // namespace penstock
