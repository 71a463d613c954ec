// `penstock bench serve`: replays a trace against a server that runs, checks the answers, and
// prints how fast they came.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "frontend/bench_client.h"

namespace penstock {

struct BenchServeOptions {
  std::string server = "127.0.0.1:50051";
  std::string trace;       // a file, or "-"
  int64_t limit = 0;       // requests of the trace; 0: all
  int64_t max_prompt = 0;  // tokens; 0: as the trace says
  int64_t max_output = 0;
  int connections = 4;
  BenchRunOptions run;  // its vocabulary is the server's
  BenchTargets targets;
  std::string json;   // a file for the figures; empty: none
  int64_t check = 0;  // requests that are sent once more, alone
};

// The program's exit code: 1 if a request failed or an answer was wrong. Figures go to standard
// output. REQUIRES: no thread has been started.
int RunBenchServe(const BenchServeOptions& options);

}  // namespace penstock
