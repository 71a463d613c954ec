#include "worker/worker_service.h"

#include <chrono>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "proto/worker_codec.h"

namespace penstock {
namespace {

using worker::v1::ControlRequest;
using worker::v1::ControlResponse;

// Requests of a stream that wait for the stage thread; beyond these the stream is not read on, and
// gRPC's flow control holds the client back.
constexpr int kMaxWaiting = 64;
// How often loading is told of.
constexpr std::chrono::milliseconds kProgressPeriod{100};

// One Control stream. It keeps itself alive until gRPC is done with it; a job on the stage thread
// may keep it longer.
class ControlStream final : public grpc::ServerBidiReactor<ControlRequest, ControlResponse>,
                            public std::enable_shared_from_this<ControlStream> {
 public:
  ControlStream(StageExecutor& executor, TaskThread& stage_thread)
      : executor_(executor), stage_thread_(stage_thread) {}

  void Begin() {
    self_ = shared_from_this();
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      std::lock_guard<std::mutex> lock(mutex_);
      reads_done_ = true;
      FinishIfDone();
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++waiting_;
    }
    stage_thread_.Enqueue(
        [stream = shared_from_this(), request = std::move(request_)] { stream->Handle(request); });
    std::lock_guard<std::mutex> lock(mutex_);
    reading_ = waiting_ < kMaxWaiting && !finished_;
    if (reading_) StartRead(&request_);
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard<std::mutex> lock(mutex_);
    writing_ = false;
    if (!ok) gone_ = true;
    StartNextWrite();
    FinishIfDone();
  }

  void OnCancel() override {
    std::lock_guard<std::mutex> lock(mutex_);
    gone_ = true;
    FinishIfDone();
  }

  void OnDone() override { const auto last = std::move(self_); }

 private:
  // On the stage thread.
  void Handle(const ControlRequest& request) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (gone_) return;
    }
    ControlResponse response = Answer(request);
    std::lock_guard<std::mutex> lock(mutex_);
    --waiting_;
    outbox_.push_back(std::move(response));
    StartNextWrite();
    if (!reading_ && !finished_) {
      reading_ = true;
      StartRead(&request_);
    }
  }

  ControlResponse Answer(const ControlRequest& request) {
    ControlResponse response;
    absl::Status status;
    switch (request.message_case()) {
      case ControlRequest::kLoad:
        status = Load(request.load(), response.mutable_loaded());
        break;
      case ControlRequest::kPlan:
        status = Execute(request.plan(), response.mutable_result());
        break;
      default:
        status = absl::InvalidArgumentError("a control request holds neither a load nor a plan");
        break;
    }
    if (!status.ok()) EncodeError(status, response.mutable_error());
    return response;
  }

  absl::Status Load(const worker::v1::LoadRequest& request, worker::v1::LoadResponse* response) {
    PENSTOCK_ASSIGN_OR_RETURN(const StageOptions options, DecodeStageOptions(request));
    auto told = std::chrono::steady_clock::now();
    const auto progress = [&](const LoadProgress& each) {
      const auto now = std::chrono::steady_clock::now();
      if (now - told < kProgressPeriod) return;
      told = now;
      Tell(each);
    };
    PENSTOCK_ASSIGN_OR_RETURN(const StageInfo info, executor_.Load(options, progress));
    EncodeStageInfo(info, response);
    return absl::OkStatus();
  }

  // While the client is slow to read, nothing: the next one says it better.
  void Tell(const LoadProgress& progress) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (writing_ || gone_) return;
    EncodeLoadProgress(progress, outbox_.emplace_back().mutable_progress());
    StartNextWrite();
  }

  absl::Status Execute(const worker::v1::StepPlan& request, worker::v1::StepResult* response) {
    if (failed_epoch_ == request.epoch()) return failure_;
    absl::StatusOr<StepPlan> plan = DecodeStepPlan(request);
    absl::StatusOr<StepResult> result = plan.ok() ? executor_.Execute(*plan) : plan.status();
    if (!result.ok()) {
      failed_epoch_ = request.epoch();
      failure_ = result.status();
      return failure_;
    }
    EncodeStepResult(*result, response);
    return absl::OkStatus();
  }

  // The next two: REQUIRES mutex_ held.
  void StartNextWrite() {
    if (writing_ || outbox_.empty() || gone_ || finished_) return;
    response_ = std::move(outbox_.front());
    outbox_.pop_front();
    writing_ = true;
    StartWrite(&response_);
  }
  void FinishIfDone() {
    const bool answered = reads_done_ && waiting_ == 0 && outbox_.empty();
    if (finished_ || writing_ || !(gone_ || answered)) return;
    finished_ = true;
    Finish(gone_ ? grpc::Status::CANCELLED : grpc::Status::OK);
  }

  StageExecutor& executor_;  // touched on the stage thread only
  TaskThread& stage_thread_;
  std::shared_ptr<ControlStream> self_;

  // The stage thread's own.
  std::optional<uint32_t> failed_epoch_;
  absl::Status failure_;

  ControlRequest request_;    // belongs to gRPC while reading_
  ControlResponse response_;  // belongs to gRPC while writing_

  std::mutex mutex_;
  // All below is guarded by mutex_.
  std::deque<ControlResponse> outbox_;
  int waiting_ = 0;  // requests without an answer in the outbox
  bool reading_ = true;
  bool writing_ = false;
  bool reads_done_ = false;  // the client will ask for no more
  bool gone_ = false;        // the client has left
  bool finished_ = false;
};

}  // namespace

grpc::ServerBidiReactor<ControlRequest, ControlResponse>* WorkerService::Control(
    grpc::CallbackServerContext*) {
  const auto stream = std::make_shared<ControlStream>(*executor_, stage_thread_);
  stream->Begin();
  return stream.get();
}

}  // namespace penstock
