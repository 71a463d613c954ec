// WorkerConnection: a StageConnection over gRPC to a worker. It owns one Control stream,
// with one write and one read in flight, and the worker's process, if that was started for it.
// Until the worker has answered the first message, an address where nobody listens yet, or a worker
// that another front end is just leaving, is tried again.
// Thread rule: as StageConnection. Events come on threads of gRPC and of the spawner.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "frontend/process_spawner.h"
#include "frontend/stage_connection.h"

namespace penstock {

struct WorkerConnectionOptions {
  std::string name = "the worker";                   // for people: "stage 1 at unix:..."
  std::string address = {};                          // of the stage, if the worker does not say one
  std::string version = {};                          // of this program
  absl::Duration connect_limit = absl::Seconds(30);  // until the worker has answered
  absl::Duration beat_period = absl::Milliseconds(100);
};

class WorkerConnection final : public StageConnection {
 public:
  // A channel for one try: a new one knows no backoff.
  using MakeChannel = std::function<std::shared_ptr<grpc::Channel>()>;
  using StartProcess = std::function<std::unique_ptr<ChildProcess>(ProcessSpawner::OnEnd)>;
  // `start_process` is called at once, if there is one, and its process ends with the connection.
  WorkerConnection(MakeChannel make_channel, WorkerConnectionOptions options,
                   StageProvider::EventCallback events,
                   const StartProcess& start_process = nullptr);
  ~WorkerConnection() override;

  void Load(const StageOptions& options) override;
  void BeginEpoch(const EpochStart& start) override;
  void Submit(const StepPlan& plan) override;
  void Kill() override;

 private:
  class Core;
  const std::shared_ptr<Core> core_;  // gRPC's alarms may keep it a little longer
};

}  // namespace penstock
