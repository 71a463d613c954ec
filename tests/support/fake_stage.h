// FakeStage: a StageLink with a FakeModel behind it, answering on its own thread. It can be held
// (it takes plans but does not answer), made to fail, and slowed down.
// Thread rule: the controls are for any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <limits>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "frontend/stage_link.h"
#include "tests/support/fake_model.h"

namespace penstock {

class FakeStage : public StageLink {
 public:
  explicit FakeStage(const FakeModelOptions& options,
                     std::chrono::microseconds delay = std::chrono::microseconds(0))
      : options_(options), delay_(delay), model_(options) {}

  // Plans without an answer stay without one.
  ~FakeStage() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  absl::StatusOr<StageInfo> Load(const StageOptions&, const ProgressCallback&) override {
    StageInfo info;
    info.config.vocab_size = options_.vocab_size;
    info.num_blocks = options_.num_blocks;
    return info;
  }
  void SetResultCallback(ResultCallback callback) override {
    callback_ = std::move(callback);
    thread_ = std::thread([this] { Run(); });
  }
  void Submit(const StepPlan& plan) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      plans_.push_back(plan);
      ++submitted_;
    }
    changed_.notify_all();
  }

  // From now on only Permit(n) lets n plans be answered.
  void Hold() {
    std::lock_guard<std::mutex> lock(mutex_);
    permits_ = 0;
  }
  void Permit(int64_t plans) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      permits_ += plans;
    }
    changed_.notify_all();
  }
  // Every plan that is answered from now on is answered with an error.
  void Fail(absl::StatusCode code, const std::string& message) {
    std::lock_guard<std::mutex> lock(mutex_);
    failure_code_ = code;
    failure_message_ = message;
  }
  void WaitForPlans(int64_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return submitted_ >= count; });
  }
  int64_t submitted() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return submitted_;
  }
  int64_t fed_tokens() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return model_.fed_tokens();
  }

 private:
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stop_ || (!plans_.empty() && permits_ > 0); });
      if (stop_) return;
      const StepPlan plan = std::move(plans_.front());
      plans_.pop_front();
      --permits_;
      absl::StatusOr<StepResult> result = model_.Execute(plan);
      if (failure_code_ != absl::StatusCode::kOk) {
        result = absl::Status(failure_code_, Abs(failure_message_));
      }
      lock.unlock();
      if (delay_.count() > 0) std::this_thread::sleep_for(delay_);
      callback_(std::move(result));
      lock.lock();
    }
  }

  const FakeModelOptions options_;
  const std::chrono::microseconds delay_;
  ResultCallback callback_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  FakeModel model_;
  std::deque<StepPlan> plans_;
  int64_t submitted_ = 0;
  int64_t permits_ = std::numeric_limits<int64_t>::max() / 2;
  absl::StatusCode failure_code_ = absl::StatusCode::kOk;
  std::string failure_message_;
  bool stop_ = false;

  std::thread thread_;
};

}  // namespace penstock
