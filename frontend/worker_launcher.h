// WorkerLauncher: the StageProvider of `serve --stages N`: every stage is a penstock-worker process
// of this machine, reached over a Unix socket of this user's. A stage that is connected again is a
// new process.
// Thread rule: as StageProvider.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "frontend/process_spawner.h"
#include "frontend/stage_connection.h"
#include "worker/transport/grpc_credentials.h"

namespace penstock {

struct WorkerLaunchOptions {
  std::string program = {};  // penstock-worker
  std::string version = {};  // of this program
  absl::Duration connect_limit = absl::Seconds(60);
  absl::Duration beat_period = absl::Milliseconds(100);
};

// `given`, or the penstock-worker that lies beside this program. Errors: NOT_FOUND with what to do.
absl::StatusOr<std::string> FindWorkerProgram(const std::string& given);

class WorkerLauncher final : public StageProvider {
 public:
  // `spawner` must outlive the launcher and its connections.
  WorkerLauncher(ProcessSpawner& spawner, WorkerLaunchOptions options);

  std::unique_ptr<StageConnection> Connect(int32_t stage, EventCallback events) override;

 private:
  ProcessSpawner& spawner_;
  const WorkerLaunchOptions options_;
  const ChannelFactory channels_;
  int64_t started_ = 0;  // processes, for the names of their sockets
};

}  // namespace penstock
