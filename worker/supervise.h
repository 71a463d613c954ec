// Supervise: PID 1 of a worker's container, or any process's parent: runs a program, starts it
// again when it ends, passes signals on and reaps what others leave behind. REQUIRES: one thread.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace penstock {

struct SuperviseOptions {
  // So many deaths within the window, and it gives up: starting again does not help.
  int max_deaths = 5;
  absl::Duration window = absl::Seconds(60);
};

// Runs `arguments` with this process's own program until it ends after SIGTERM or SIGINT, which it
// gets as this process does, until it says that its arguments are wrong (exit code 2), or dies too
// often. Gives the exit code: the program's own in the first two cases (128 + the signal that
// killed it), else 1.
int Supervise(const std::vector<std::string>& arguments, const SuperviseOptions& options);

}  // namespace penstock
