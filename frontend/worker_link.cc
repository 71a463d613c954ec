#include "frontend/worker_link.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "core/base/check.h"
#include "penstock/worker/v1/worker.grpc.pb.h"
#include "proto/worker_codec.h"

namespace penstock {

using worker::v1::ControlRequest;
using worker::v1::ControlResponse;

class WorkerLink::Stream final : public grpc::ClientBidiReactor<ControlRequest, ControlResponse> {
 public:
  explicit Stream(std::shared_ptr<grpc::Channel> channel)
      : stub_(worker::v1::Worker::NewStub(std::move(channel))) {
    stub_->async()->Control(&context_, this);
    AddHold();  // Submit may write at any time: until the stream has broken
    StartRead(&response_);
    StartCall();
  }

  ~Stream() override {
    context_.TryCancel();
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
  }

  absl::StatusOr<StageInfo> Load(const StageOptions& options, const ProgressCallback& progress) {
    ControlRequest request;
    EncodeStageOptions(options, request.mutable_load());
    std::unique_lock<std::mutex> lock(mutex_);
    progress_ = &progress;
    Send(std::move(request));
    changed_.wait(lock, [this] { return loaded_.has_value() || done_; });
    if (!loaded_.has_value()) return lost_;
    return *loaded_;
  }

  void SetResultCallback(ResultCallback callback) { callback_ = std::move(callback); }

  void Submit(const StepPlan& plan) {
    ControlRequest request;
    EncodeStepPlan(plan, request.mutable_plan());
    absl::Status lost;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (lost_.ok()) {
        ++in_flight_;
        Send(std::move(request));
        return;
      }
      lost = lost_;
    }
    callback_(lost);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      std::lock_guard<std::mutex> lock(mutex_);
      broken_ = true;
      RemoveHold();
      return;
    }
    Receive();
    StartRead(&response_);
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard<std::mutex> lock(mutex_);
    writing_ = false;
    if (ok) StartNextWrite();  // else the read fails too
  }

  void OnDone(const grpc::Status& status) override {
    const absl::Status lost = absl::UnavailableError(
        absl::StrCat("the worker's control stream ended: ",
                     status.ok() ? "closed by the worker" : status.error_message()));
    int unanswered = 0;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      lost_ = lost;
      unanswered = std::exchange(in_flight_, 0);
    }
    for (; unanswered > 0; --unanswered) callback_(lost);
    // Last: whoever waits for it may destroy this.
    std::lock_guard<std::mutex> lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }

 private:
  void Receive() {
    switch (response_.message_case()) {
      case ControlResponse::kLoaded:
        SetLoaded(DecodeStageInfo(response_.loaded()));
        return;
      case ControlResponse::kResult:
        Deliver(DecodeStepResult(response_.result()));
        return;
      case ControlResponse::kProgress:
        TellProgress(DecodeLoadProgress(response_.progress()));
        return;
      case ControlResponse::kError: {
        const absl::Status error = DecodeError(response_.error());
        if (!SetLoaded(error)) Deliver(error);
        return;
      }
      default:
        Deliver(absl::InternalError("the worker sent a response of no use"));
    }
  }

  // The stage answers in order, so Load still waits, and its callback is there.
  void TellProgress(const absl::StatusOr<LoadProgress>& progress) {
    const ProgressCallback* callback = nullptr;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!loaded_.has_value()) callback = progress_;
    }
    if (progress.ok() && callback != nullptr) (*callback)(*progress);
  }

  // False if the answer to Load had come before. The stage answers in order, so the first is it.
  bool SetLoaded(absl::StatusOr<StageInfo> info) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (loaded_.has_value()) return false;
    loaded_ = std::move(info);
    changed_.notify_all();
    return true;
  }

  void Deliver(absl::StatusOr<StepResult> result) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (in_flight_ == 0)
        return;  // an answer to nothing: a worker's mistake without a plan to blame
      --in_flight_;
    }
    callback_(std::move(result));
  }

  // The next two: REQUIRES mutex_ held.
  void Send(ControlRequest request) {
    outbox_.push_back(std::move(request));
    StartNextWrite();
  }
  void StartNextWrite() {
    if (writing_ || broken_ || outbox_.empty()) return;
    request_ = std::move(outbox_.front());
    outbox_.pop_front();
    writing_ = true;
    StartWrite(&request_);
  }

  const std::unique_ptr<worker::v1::Worker::Stub> stub_;
  grpc::ClientContext context_;
  ResultCallback callback_;
  ControlResponse response_;  // belongs to gRPC while a read is in flight
  ControlRequest request_;    // belongs to gRPC while writing_

  std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  std::deque<ControlRequest> outbox_;
  std::optional<absl::StatusOr<StageInfo>> loaded_;
  const ProgressCallback* progress_ = nullptr;  // Load's
  int in_flight_ = 0;                           // plans without an answer
  bool writing_ = false;
  bool broken_ = false;  // nothing may be written any more
  bool done_ = false;    // gRPC has made its last call
  absl::Status lost_;    // OK while plans can be answered
};

WorkerLink::WorkerLink(std::shared_ptr<grpc::Channel> channel)
    : stream_(std::make_unique<Stream>(std::move(channel))) {}

WorkerLink::~WorkerLink() = default;

absl::StatusOr<StageInfo> WorkerLink::Load(const StageOptions& options,
                                           const ProgressCallback& progress) {
  return stream_->Load(options, progress);
}

void WorkerLink::SetResultCallback(ResultCallback callback) {
  stream_->SetResultCallback(std::move(callback));
}

void WorkerLink::Submit(const StepPlan& plan) { stream_->Submit(plan); }

}  // namespace penstock
