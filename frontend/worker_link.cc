#include "frontend/worker_link.h"

#include <utility>

namespace penstock {

WorkerLink::WorkerLink(std::shared_ptr<grpc::Channel> channel)
    : connection_(std::make_unique<WorkerConnection>(
          [channel = std::move(channel)] { return channel; },
          WorkerConnectionOptions{.connect_limit = absl::Seconds(1)},
          [this](StageEvent event) { OnEvent(std::move(event)); })) {}

WorkerLink::~WorkerLink() {
  connection_.reset();
  Fail(absl::UnavailableError("the worker's control stream ended: by this side"));
}

absl::StatusOr<StageInfo> WorkerLink::Load(const StageOptions& options,
                                           const ProgressCallback& progress) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    progress_ = &progress;
  }
  connection_->Load(options);
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return info_.has_value() || !failure_.ok(); });
  progress_ = nullptr;
  if (!failure_.ok()) return failure_;
  lock.unlock();
  connection_->BeginEpoch({.epoch = 1,
                           .first_plan = 1,
                           .num_blocks = info_->num_blocks,
                           .next = {},
                           .first = {},
                           .connect_ns = 0});
  lock.lock();
  changed_.wait(lock, [this] { return entered_ || !failure_.ok(); });
  if (!failure_.ok()) return failure_;
  return *info_;
}

void WorkerLink::SetResultCallback(ResultCallback callback) { callback_ = std::move(callback); }

void WorkerLink::Submit(const StepPlan& plan) {
  absl::Status failure;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    failure = failure_;
    if (failure.ok()) ++in_flight_;
  }
  if (failure.ok()) {
    connection_->Submit(plan);
  } else {
    callback_(failure);
  }
}

void WorkerLink::OnEvent(StageEvent event) {
  if (auto* const progress = std::get_if<LoadProgress>(&event)) {
    const ProgressCallback* callback = nullptr;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      callback = progress_;
    }
    if (callback != nullptr) (*callback)(*progress);
  } else if (auto* const result = std::get_if<StepResult>(&event)) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (in_flight_ == 0) return;
      --in_flight_;
    }
    callback_(std::move(*result));
  } else if (auto* const failed = std::get_if<EpochFailed>(&event)) {
    Fail(failed->status);
  } else if (auto* const lost = std::get_if<StageLost>(&event)) {
    Fail(lost->status);
  } else {
    std::lock_guard<std::mutex> lock(mutex_);
    if (auto* const info = std::get_if<StageInfo>(&event)) info_ = std::move(*info);
    if (std::holds_alternative<EpochEntered>(event)) entered_ = true;
    changed_.notify_all();
  }
}

void WorkerLink::Fail(const absl::Status& status) {
  int unanswered = 0;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (failure_.ok()) failure_ = status;
    unanswered = std::exchange(in_flight_, 0);
    changed_.notify_all();
  }
  for (; unanswered > 0; --unanswered) callback_(status);
}

}  // namespace penstock
