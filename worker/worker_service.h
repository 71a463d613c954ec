// WorkerService: one stage as the gRPC service penstock.worker.v1.Worker. One front end at a time
// owns the worker: its control stream brings a stage into being, loads it, begins epochs and sends
// plans, and takes the stage with it when it ends, however it ends. Another front end is refused
// until that is done; it is told of the last epoch that the worker has had, and begins above it.
//
// gRPC's callbacks only enqueue. One thread loads, begins epochs and hands plans to the stage, in
// the order of the requests; the stage answers on its own. Beats come from a third, which no plan
// can hold up. While it loads, the stage tells how far it has come, ten times a second at most.
// Thread rule: any thread. It must outlive its server.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "core/base/task_thread.h"
#include "penstock/worker/v1/worker.grpc.pb.h"
#include "worker/stage_host.h"

namespace penstock {

struct WorkerServiceOptions {
  std::string version = {};  // of the program, for the other end's log
  // In place of what the front end says.
  std::string model = {};
  std::optional<int> threads = {};
  std::optional<std::string> device = {};
  std::optional<std::string> gemm_table = {};
  // A front end has come; its stream has ended, told at once; its stage is gone too. On threads of
  // the service; they must not block.
  std::function<void()> on_owned = [] {};
  std::function<void()> on_left = [] {};
  std::function<void()> on_freed = [] {};
};

class WorkerService final : public worker::v1::Worker::CallbackService {
 public:
  using MakeStage = std::function<std::unique_ptr<StageHost>()>;
  // `make_stage` is called once for each front end.
  explicit WorkerService(MakeStage make_stage, WorkerServiceOptions options = {});
  ~WorkerService() override;

  grpc::ServerBidiReactor<worker::v1::ControlRequest, worker::v1::ControlResponse>* Control(
      grpc::CallbackServerContext* context) override;

  // Lets the stage finish the plans that it has, and then ends the front end's stream; new ones are
  // refused. False if there is none.
  bool Drain();

 private:
  class ControlStream;

  // OK if the stream may have the worker from now on.
  absl::Status Acquire(std::shared_ptr<ControlStream> stream);
  // On the control thread.
  void Release();
  void RunBeats();

  const MakeStage make_stage_;
  const WorkerServiceOptions options_;

  uint32_t last_epoch_ = 0;  // the highest that any stream has begun; the control thread's own

  std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  std::shared_ptr<ControlStream> owner_;
  bool draining_ = false;
  bool stop_ = false;

  std::thread beat_thread_;
  std::unique_ptr<TaskThread> control_thread_;
};

}  // namespace penstock
