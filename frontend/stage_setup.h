// StageSetup: where the stages of a server run: inside it, as processes that it starts, or as
// workers that others have started. Plain values, and the provider that follows from them.
// Thread rule: Prepare before any thread has been started; then any.
#pragma once

#include <memory>
#include <string>

#include "frontend/model_runtime.h"
#include "frontend/process_spawner.h"
#include "worker/transport/grpc_credentials.h"

namespace penstock {

struct StageSetup {
  int64_t num_stages = 1;      // more than one: processes
  bool processes = false;      // also the one
  std::string split;           // layers of each stage, "10,12,8"; empty: as the cost model has it
  std::string workers;         // "HOST:PORT,...": workers that run elsewhere; empty: none
  std::string worker_program;  // empty: the penstock-worker beside this program
  TlsFiles tls;                // towards workers of other machines
};

class StagePlace {
 public:
  // Forks the helper that starts processes, if the setup needs one, and fills the stage's part of
  // `runtime`. REQUIRES: this process has no other thread.
  // Errors: INVALID_ARGUMENT for settings that do not go together, NOT_FOUND for a worker program
  // that is not there, those of ProcessSpawner::Fork.
  static absl::StatusOr<StagePlace> Prepare(const StageSetup& setup, RuntimeOptions* runtime);

 private:
  std::unique_ptr<ProcessSpawner> spawner_;  // may be null; outlives the runtime
};

}  // namespace penstock
