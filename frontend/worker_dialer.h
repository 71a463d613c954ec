// WorkerDialer: the StageProvider of `serve --workers HOST:PORT,...`: stage k is the worker at the
// k-th address, started by others.
// Thread rule: as StageProvider.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "frontend/stage_connection.h"
#include "worker/transport/grpc_credentials.h"

namespace penstock {

struct WorkerDialOptions {
  std::vector<std::string> addresses = {};  // HOST:PORT or unix:/PATH, in the order of the stages
  TlsFiles tls = {};
  std::string version = {};  // of this program
  absl::Duration connect_limit = absl::Seconds(60);
  absl::Duration beat_period = absl::Milliseconds(100);
};

// "a:1,b:2" as a list. Errors: INVALID_ARGUMENT for what is no address, or is there twice.
absl::StatusOr<std::vector<std::string>> ParseWorkerList(const std::string& text);

class WorkerDialer final : public StageProvider {
 public:
  // Errors: FAILED_PRECONDITION for another machine without TLS; those of the TLS files.
  static absl::StatusOr<std::unique_ptr<WorkerDialer>> Make(const WorkerDialOptions& options);

  // REQUIRES: there is an address for the stage.
  std::unique_ptr<StageConnection> Connect(int32_t stage, EventCallback events) override;

 private:
  WorkerDialer(WorkerDialOptions options, ChannelFactory channels)
      : options_(std::move(options)), channels_(std::move(channels)) {}

  const WorkerDialOptions options_;
  const ChannelFactory channels_;
};

}  // namespace penstock
