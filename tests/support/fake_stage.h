// FakePipeline: the stages of a pipeline as models, behind a StageProvider. Stages take their plans
// in order, wait for each other as real ones do, and the last one answers by a FakeModel. Nothing
// happens by itself: Step(stage) does a stage's next piece of work (loading, entering an epoch, one
// plan), so that a test decides what comes when; a FakeStageThread does it all by itself.
// A stage can die, hang (it stops, beats and all), be stuck (it beats and gets nowhere), refuse to
// load or to enter an epoch, fail a plan, and die of a poisonous token.
// Thread rule: any thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "frontend/stage_connection.h"
#include "tests/support/fake_model.h"

namespace penstock {

class FakePipeline : public std::enable_shared_from_this<FakePipeline> {
 public:
  FakePipeline(const FakeModelOptions& options, int32_t num_stages)
      : options_(options), model_(options), stages_(static_cast<size_t>(num_stages)) {}

  // For a coordinator; the pipeline may outlive it.
  std::unique_ptr<StageProvider> MakeProvider() {
    return std::make_unique<Provider>(shared_from_this());
  }

  // The stage's next piece of work; false if it has none that it can do.
  bool Step(int32_t stage) {
    std::lock_guard<std::mutex> lock(mutex_);
    return StepLocked(stage);
  }
  // Until nobody has any.
  void Run() {
    for (bool any = true; any;) {
      any = false;
      for (int32_t stage = 0; stage < num_stages(); ++stage) any = Step(stage) || any;
    }
  }
  void Beat(int32_t stage) {
    std::lock_guard<std::mutex> lock(mutex_);
    Stage& one = At(stage);
    if (!one.events || one.hung) return;
    StageBeat beat;
    beat.epoch = one.epoch;
    beat.done = one.done;
    beat.queued = static_cast<int64_t>(one.plans.size());
    if (!one.plans.empty()) {
      beat.current = one.plans.front().number;
      beat.doing = one.stuck || HasInput(stage, one.plans.front())
                       ? StageBeat::Doing::kComputes
                       : StageBeat::Doing::kWaitsForInput;
    }
    one.events(beat);
  }
  void BeatAll() {
    for (int32_t stage = 0; stage < num_stages(); ++stage) Beat(stage);
  }

  // The process ends; its connection tells. A fresh one comes with the next Connect.
  void Die(int32_t stage, const char* why = "killed") {
    std::lock_guard<std::mutex> lock(mutex_);
    DieLocked(stage, why);
  }
  void Hang(int32_t stage) { Set(stage, &Stage::hung); }
  void Stick(int32_t stage) { Set(stage, &Stage::stuck); }
  // Its next attempts to load end with this, until it is OK.
  void RefuseLoad(int32_t stage, const absl::Status& status) {
    std::lock_guard<std::mutex> lock(mutex_);
    At(stage).load_refusal = status;
  }
  // So many times, from now on.
  void RefuseEpochs(int32_t stage, int count) {
    std::lock_guard<std::mutex> lock(mutex_);
    At(stage).refuse_epochs = count;
  }
  // Its epoch is over, though it lives.
  void FailEpoch(int32_t stage, const absl::Status& status, uint64_t plan = 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    Stage& one = At(stage);
    if (!one.events || !one.entered) return;
    one.entered = false;
    one.plans.clear();
    one.events(EpochFailed{one.epoch, plan, status});
  }
  // From now on only Permit(n) lets n plans be answered.
  void Hold() {
    std::lock_guard<std::mutex> lock(mutex_);
    permits_ = 0;
  }
  void Permit(int64_t plans) {
    std::lock_guard<std::mutex> lock(mutex_);
    permits_ += plans;
    on_work_();
  }
  void WaitForPlans(int64_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return submitted_ >= count; });
  }
  // Whatever the stage may have to say: `event` is passed on.
  void Tell(int32_t stage, StageEvent event) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (At(stage).events) At(stage).events(std::move(event));
  }
  // The stage that is given a plan with this token in a row dies of it.
  void SetPoison(int32_t token, int32_t stage) {
    std::lock_guard<std::mutex> lock(mutex_);
    poison_ = token;
    poisoned_ = stage;
  }
  void SetInfo(int32_t stage, std::function<void(StageInfo&)> change) {
    std::lock_guard<std::mutex> lock(mutex_);
    At(stage).change_info = std::move(change);
  }

  int32_t num_stages() const { return static_cast<int32_t>(stages_.size()); }
  int64_t connects(int32_t stage) const { return Get(stage, &Stage::connects); }
  int64_t kills(int32_t stage) const { return Get(stage, &Stage::kills); }
  bool connected(int32_t stage) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return At(stage).events != nullptr;
  }
  StageOptions load(int32_t stage) const { return Get(stage, &Stage::options); }
  EpochStart start(int32_t stage) const { return Get(stage, &Stage::start); }
  std::vector<StepPlan> plans(int32_t stage) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return {At(stage).plans.begin(), At(stage).plans.end()};
  }
  int64_t submitted() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return submitted_;
  }
  int64_t fed_tokens() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return model_.fed_tokens();
  }
  // Why the model would not take a plan: the scheduler has broken a rule.
  absl::Status broken_rule() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return broken_rule_;
  }
  // Called, under the lock, when a plan or anything else has come.
  void SetOnWork(std::function<void()> on_work) {
    std::lock_guard<std::mutex> lock(mutex_);
    on_work_ = std::move(on_work);
  }

 private:
  using EventCallback = StageProvider::EventCallback;

  struct Stage {
    EventCallback events;  // empty: not connected, or dead
    bool hung = false;
    bool stuck = false;
    bool load_due = false;
    bool entry_due = false;
    bool entered = false;
    uint32_t epoch = 0;
    uint64_t done = 0;
    std::deque<StepPlan> plans;

    // What outlives a process.
    absl::Status load_refusal;
    int refuse_epochs = 0;
    int64_t connects = 0;
    int64_t kills = 0;
    StageOptions options;
    EpochStart start;
    std::function<void(StageInfo&)> change_info;
  };

  class Connection final : public StageConnection {
   public:
    Connection(std::shared_ptr<FakePipeline> pipeline, int32_t stage)
        : pipeline_(std::move(pipeline)), stage_(stage) {}
    ~Connection() override {
      std::lock_guard<std::mutex> lock(pipeline_->mutex_);
      pipeline_->Reset(stage_);
    }
    void Load(const StageOptions& options) override {
      std::lock_guard<std::mutex> lock(pipeline_->mutex_);
      Stage& one = pipeline_->At(stage_);
      one.options = options;
      one.load_due = true;
      pipeline_->on_work_();
    }
    void BeginEpoch(const EpochStart& start) override {
      std::lock_guard<std::mutex> lock(pipeline_->mutex_);
      Stage& one = pipeline_->At(stage_);
      if (!one.events) return;
      one.start = start;
      one.entry_due = true;
      one.entered = false;
      one.plans.clear();
      pipeline_->on_work_();
    }
    void Submit(const StepPlan& plan) override {
      std::lock_guard<std::mutex> lock(pipeline_->mutex_);
      Stage& one = pipeline_->At(stage_);
      if (stage_ == 0) ++pipeline_->submitted_;
      if (one.events && one.entered) one.plans.push_back(plan);
      pipeline_->changed_.notify_all();
      pipeline_->on_work_();
    }
    void Kill() override {
      std::lock_guard<std::mutex> lock(pipeline_->mutex_);
      ++pipeline_->At(stage_).kills;
    }

   private:
    const std::shared_ptr<FakePipeline> pipeline_;
    const int32_t stage_;
  };

  class Provider final : public StageProvider {
   public:
    explicit Provider(std::shared_ptr<FakePipeline> pipeline) : pipeline_(std::move(pipeline)) {}
    std::unique_ptr<StageConnection> Connect(int32_t stage, EventCallback events) override {
      std::lock_guard<std::mutex> lock(pipeline_->mutex_);
      pipeline_->Reset(stage);
      pipeline_->At(stage).events = std::move(events);
      ++pipeline_->At(stage).connects;
      return std::make_unique<Connection>(pipeline_, stage);
    }

   private:
    const std::shared_ptr<FakePipeline> pipeline_;
  };

  // All below: REQUIRES mutex_ held.
  Stage& At(int32_t stage) { return stages_[static_cast<size_t>(stage)]; }
  const Stage& At(int32_t stage) const { return stages_[static_cast<size_t>(stage)]; }

  void Reset(int32_t stage) {
    Stage fresh;
    Stage& one = At(stage);
    fresh.load_refusal = one.load_refusal;
    fresh.refuse_epochs = one.refuse_epochs;
    fresh.connects = one.connects;
    fresh.kills = one.kills;
    fresh.options = one.options;
    fresh.start = one.start;
    fresh.change_info = one.change_info;
    one = std::move(fresh);
  }

  void DieLocked(int32_t stage, const char* why) {
    if (!At(stage).events) return;
    const EventCallback events = At(stage).events;
    Reset(stage);
    events(StageLost{absl::UnavailableError(why)});
  }

  bool HasInput(int32_t stage, const StepPlan& plan) const {
    const auto has = [&](int32_t other, uint64_t number) {
      return At(other).entered && At(other).epoch == At(stage).epoch && At(other).done >= number;
    };
    if (stage > 0) return has(stage - 1, plan.number);
    for (const PlanRow& row : plan.rows) {
      if (row.token_from != 0 && !has(num_stages() - 1, row.token_from)) return false;
    }
    return true;
  }

  bool StepLocked(int32_t stage) {
    Stage& one = At(stage);
    if (!one.events || one.hung) return false;
    if (std::exchange(one.load_due, false)) {
      if (one.load_refusal.ok()) {
        one.events(LoadProgress{1, 1, "all"});
        one.events(Info(stage));
      } else {
        const EventCallback events = one.events;
        const absl::Status refusal = one.load_refusal;
        Reset(stage);
        events(StageLost{refusal});
      }
      return true;
    }
    if (one.stuck) return false;
    if (std::exchange(one.entry_due, false)) {
      one.epoch = one.start.epoch;
      one.done = one.start.first_plan - 1;
      if (one.refuse_epochs > 0) {
        --one.refuse_epochs;
        one.events(EpochFailed{one.epoch, 0, absl::UnavailableError("cannot connect")});
        return true;
      }
      if (one.epoch > model_epoch_) {
        model_epoch_ = one.epoch;
        model_.BeginEpoch(one.epoch, one.start.first_plan);
      }
      one.entered = true;
      one.events(EpochEntered{one.epoch});
      return true;
    }
    if (one.plans.empty() || !HasInput(stage, one.plans.front())) return false;
    if (stage == poisoned_ && IsPoisoned(one.plans.front())) {
      DieLocked(stage, "poisoned");
      return true;
    }
    const bool last = stage + 1 == num_stages();
    if (last && permits_ == 0) return false;
    if (last) --permits_;
    const StepPlan plan = std::move(one.plans.front());
    one.plans.pop_front();
    one.done = plan.number;
    StepResult result;
    if (last) {
      absl::StatusOr<StepResult> answer = model_.Execute(plan);
      if (!answer.ok()) {
        broken_rule_ = answer.status();
        one.entered = false;
        one.events(EpochFailed{one.epoch, plan.number, answer.status()});
        return true;
      }
      result = *std::move(answer);
    }
    result.number = plan.number;
    result.epoch = plan.epoch;
    result.times.compute_ns = 1000 * plan.num_tokens();
    one.events(std::move(result));
    return true;
  }

  bool IsPoisoned(const StepPlan& plan) const {
    for (const PlanRow& row : plan.rows) {
      if (std::count(row.tokens.begin(), row.tokens.end(), *poison_) > 0) return true;
    }
    return false;
  }

  StageInfo Info(int32_t stage) const {
    StageInfo info;
    info.config.vocab_size = options_.vocab_size;
    info.config.num_layers = num_stages();
    info.config.context_length = 1 << 20;
    info.num_blocks = options_.num_blocks;
    info.layers = At(stage).options.layers;
    info.model_hash = 42;
    info.address = absl::StrCat("fake:", stage);
    if (At(stage).change_info) At(stage).change_info(info);
    return info;
  }

  void Set(int32_t stage, bool Stage::*flag) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (At(stage).events) At(stage).*flag = true;
  }
  template <typename T>
  T Get(int32_t stage, T Stage::*field) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return At(stage).*field;
  }

  const FakeModelOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  FakeModel model_;
  int64_t permits_ = std::numeric_limits<int64_t>::max() / 2;
  uint32_t model_epoch_ = 0;
  std::vector<Stage> stages_;
  std::function<void()> on_work_ = [] {};
  std::optional<int32_t> poison_;
  int32_t poisoned_ = -1;
  int64_t submitted_ = 0;
  absl::Status broken_rule_;
};

// Does all the work of a pipeline's stages as it comes.
class FakeStageThread {
 public:
  explicit FakeStageThread(std::shared_ptr<FakePipeline> pipeline,
                           std::chrono::microseconds delay = std::chrono::microseconds(0))
      : pipeline_(std::move(pipeline)), delay_(delay), thread_([this] { Run(); }) {
    pipeline_->SetOnWork([this] { Notify(); });
  }
  ~FakeStageThread() {
    pipeline_->SetOnWork([] {});
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    Notify();
    thread_.join();
  }

 private:
  void Notify() {
    std::lock_guard<std::mutex> lock(mutex_);
    work_ = true;
    changed_.notify_all();
  }
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return work_ || stop_; });
      if (stop_) return;
      work_ = false;
      lock.unlock();
      for (bool any = true; any;) {
        any = false;
        for (int32_t stage = 0; stage < pipeline_->num_stages(); ++stage) {
          any = pipeline_->Step(stage) || any;
        }
        if (any && delay_.count() > 0) std::this_thread::sleep_for(delay_);
      }
      lock.lock();
    }
  }

  const std::shared_ptr<FakePipeline> pipeline_;
  const std::chrono::microseconds delay_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool work_ = true;   // guarded by mutex_
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace penstock
