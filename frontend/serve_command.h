// `penstock serve`: loads a model and serves it until SIGTERM or SIGINT, then drains.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "frontend/grpc_server.h"
#include "frontend/model_runtime.h"
#include "frontend/monitoring.h"
#include "frontend/stage_setup.h"

namespace penstock {

struct ServeOptions {
  RuntimeOptions runtime;  // its stages are set by what follows
  StageSetup stages;
  std::string listen = "127.0.0.1:50051";
  int64_t max_message_bytes = 4 << 20;
  absl::Duration drain_timeout = absl::Seconds(30);
  std::string port_file;  // empty: none
  MonitoringOptions monitoring;
  // Before ready: the known-answer check, and the check file's hashes and answer if one lies beside
  // the model (startup_check.h).
  bool startup_check = true;
  bool verify_weights = false;  // there must be such a file
};

// The program's exit code; says on standard error what went wrong. A second signal ends the
// program without a return. REQUIRES: no thread has been started.
int RunServe(ServeOptions options);

}  // namespace penstock
