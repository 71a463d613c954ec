// FakeStageHost: a StageHost without a thread: its FakeHostControl, which the test keeps, says what
// Load and BeginEpoch answer, and answers plans one by one.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/fake_executor.h"
#include "worker/stage_host.h"

namespace penstock {

// Thread rule: any thread.
class FakeHostControl {
 public:
  // Load takes so long, or until it is abandoned.
  void SetLoadTime(std::chrono::milliseconds time) {
    std::lock_guard<std::mutex> lock(mutex_);
    load_time_ = time;
  }
  void SetLoadStatus(absl::Status status) {
    std::lock_guard<std::mutex> lock(mutex_);
    load_status_ = std::move(status);
  }
  void SetEpochStatus(absl::Status status) {
    std::lock_guard<std::mutex> lock(mutex_);
    epoch_status_ = std::move(status);
  }
  // Answers the oldest plan that waits, once there is one; gives its number.
  uint64_t Answer(absl::Status status = absl::OkStatus()) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!Wait(lock, [this] { return !plans_.empty(); })) return 0;
    const auto [plan, callback] = std::move(plans_.front());
    plans_.pop_front();
    lock.unlock();
    StepResult result;
    result.number = plan.number;
    result.epoch = plan.epoch;
    callback(status.ok() ? absl::StatusOr<StepResult>(result) : status);
    return plan.number;
  }
  bool WaitForPlans(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    return Wait(lock, [&] { return plans_.size() >= count; });
  }
  bool WaitForMade(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    return Wait(lock, [&] { return made_ >= count; });
  }
  bool WaitForAbandoned(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    return Wait(lock, [&] { return abandoned_ >= count; });
  }
  bool WaitForFreed(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    return Wait(lock, [&] { return freed_ >= count; });
  }
  StageOptions loaded() {
    std::lock_guard<std::mutex> lock(mutex_);
    return loaded_;
  }
  EpochStart begun() {
    std::lock_guard<std::mutex> lock(mutex_);
    return begun_;
  }

 private:
  friend class FakeStageHost;

  template <typename Condition>
  bool Wait(std::unique_lock<std::mutex>& lock, Condition condition) {
    return changed_.wait_for(lock, std::chrono::seconds(60), condition);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  std::chrono::milliseconds load_time_{0};
  absl::Status load_status_;
  absl::Status epoch_status_;
  std::deque<std::pair<StepPlan, StageHost::ResultCallback>> plans_;
  StageOptions loaded_;
  EpochStart begun_;
  int made_ = 0;
  int abandoned_ = 0;
  int freed_ = 0;
};

class FakeStageHost final : public StageHost {
 public:
  explicit FakeStageHost(std::shared_ptr<FakeHostControl> control) : control_(std::move(control)) {
    std::lock_guard<std::mutex> lock(control_->mutex_);
    ++control_->made_;
    control_->changed_.notify_all();
  }
  ~FakeStageHost() override {
    std::lock_guard<std::mutex> lock(control_->mutex_);
    control_->plans_.clear();
    ++control_->freed_;
    control_->changed_.notify_all();
  }

  absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                 const ProgressCallback& progress) override {
    const auto end = std::chrono::steady_clock::now() + load_time();
    for (int64_t done = 0; std::chrono::steady_clock::now() < end; ++done) {
      progress({done, done + 1, "tensor " + std::to_string(done)});
      std::unique_lock<std::mutex> lock(control_->mutex_);
      control_->changed_.wait_for(lock, std::chrono::milliseconds(5));
      if (abandoned_) return absl::CancelledError("abandoned");
    }
    std::lock_guard<std::mutex> lock(control_->mutex_);
    control_->loaded_ = options;
    if (!control_->load_status_.ok()) return control_->load_status_;
    return FakeExecutor::Info({});
  }
  absl::Status BeginEpoch(const EpochStart& start) override {
    std::lock_guard<std::mutex> lock(control_->mutex_);
    control_->plans_.clear();
    control_->begun_ = start;
    return control_->epoch_status_;
  }
  void Submit(const StepPlan& plan, ResultCallback callback) override {
    std::lock_guard<std::mutex> lock(control_->mutex_);
    control_->plans_.emplace_back(plan, std::move(callback));
    control_->changed_.notify_all();
  }
  StageBeat beat() const override {
    std::lock_guard<std::mutex> lock(control_->mutex_);
    StageBeat beat;
    beat.epoch = control_->begun_.epoch;
    beat.queued = static_cast<int64_t>(control_->plans_.size());
    return beat;
  }
  void Abandon() override {
    std::lock_guard<std::mutex> lock(control_->mutex_);
    abandoned_ = true;
    ++control_->abandoned_;
    control_->changed_.notify_all();
  }

 private:
  std::chrono::milliseconds load_time() const {
    std::lock_guard<std::mutex> lock(control_->mutex_);
    return control_->load_time_;
  }

  const std::shared_ptr<FakeHostControl> control_;
  bool abandoned_ = false;  // guarded by the control's mutex_
};

}  // namespace penstock
