// `penstock-worker`: one stage of a pipeline as a process. It serves a front end until that leaves,
// frees everything, and is there for the next one; with `once` it ends instead.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "worker/worker_server.h"
#include "worker/worker_service.h"

namespace penstock {

struct WorkerProgramOptions {
  WorkerServerOptions server;
  WorkerServiceOptions service;  // its callbacks are the program's own
  std::string advertise;         // where other stages find this one; empty: where it listens
  std::string port_file;         // empty: none
  bool once = false;
  // `once`: how long it waits for the front end to come.
  absl::Duration wait_limit = absl::Seconds(60);
  // After the first signal: how long the plans that it has may take.
  absl::Duration drain_limit = absl::Seconds(10);
  // How long freeing the stage of a front end that has left may take; then the process ends.
  absl::Duration free_limit = absl::Seconds(10);
};

// The program's exit code; says on standard error what went wrong. REQUIRES: no thread has been
// started.
int RunWorkerProgram(WorkerProgramOptions options);

}  // namespace penstock
