// FakeExecutor: a StageExecutor with a FakeModel behind it. Its FakeStageControl, which the test
// keeps, can hold it, make it fail and count what it has done.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/fake_model.h"
#include "worker/stage.h"

namespace penstock {

// Thread rule: any thread.
class FakeStageControl {
 public:
  // From now on only Permit(n) lets n plans be executed. The test must let all go in the end.
  void Hold() {
    std::lock_guard<std::mutex> lock(mutex_);
    permits_ = 0;
  }
  void Permit(int64_t plans) {
    std::lock_guard<std::mutex> lock(mutex_);
    permits_ += plans;
    changed_.notify_all();
  }
  void Release() { Permit(std::numeric_limits<int64_t>::max() / 4); }
  // The plan of this number fails, and only this one.
  void FailAt(uint64_t number, absl::Status failure) {
    std::lock_guard<std::mutex> lock(mutex_);
    failing_ = number;
    failure_ = std::move(failure);
  }
  std::vector<uint64_t> executed() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return executed_;
  }
  // Until the stage has been given so many plans, held ones included.
  void WaitForPlans(int64_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= count; });
  }

  // For FakeExecutor.
  absl::Status Enter(uint64_t number) {
    std::unique_lock<std::mutex> lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return permits_ > 0; });
    --permits_;
    executed_.push_back(number);
    return number == failing_ ? failure_ : absl::OkStatus();
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  int64_t permits_ = std::numeric_limits<int64_t>::max() / 2;
  int64_t arrived_ = 0;
  uint64_t failing_ = 0;
  absl::Status failure_;
  std::vector<uint64_t> executed_;
};

class FakeExecutor final : public StageExecutor {
 public:
  static constexpr int64_t kSlowTensors = 40;  // of slow.gguf, 10 ms each

  FakeExecutor(const FakeModelOptions& options, std::shared_ptr<FakeStageControl> control)
      : options_(options), model_(options), control_(std::move(control)) {}

  absl::StatusOr<StageInfo> Load(const StageOptions& options,
                                 const ProgressCallback& progress) override {
    if (options.model == "missing.gguf") {
      return absl::NotFoundError("missing.gguf: no such file");
    }
    if (options.model == "slow.gguf") {
      for (int64_t done = 0; done < kSlowTensors; ++done) {
        progress({done, kSlowTensors, "tensor " + std::to_string(done)});
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
    return Info(options_);
  }
  absl::Status BeginEpoch(const EpochStart& start) override {
    model_.BeginEpoch(start.epoch, start.first_plan);
    return absl::OkStatus();
  }
  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override {
    PENSTOCK_RETURN_IF_ERROR(control_->Enter(plan.number));
    return model_.Execute(plan);
  }

  // What Load answers: a model that passes every check.
  static StageInfo Info(const FakeModelOptions& options) {
    StageInfo info;
    info.config.architecture = "llama";
    info.config.name = "Fake";
    info.config.hidden_size = 64;
    info.config.intermediate_size = 128;
    info.config.num_layers = 2;
    info.config.num_heads = 4;
    info.config.num_kv_heads = 2;
    info.config.head_dim = 16;
    info.config.vocab_size = options.vocab_size;
    info.config.context_length = 256;
    info.num_blocks = options.num_blocks;
    info.weight_bytes = 1000;
    info.load_ns = 5;
    return info;
  }

 private:
  const FakeModelOptions options_;
  FakeModel model_;
  const std::shared_ptr<FakeStageControl> control_;
};

}  // namespace penstock
