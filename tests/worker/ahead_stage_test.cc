// A stage alone on its device, which begins a plan while the one before it runs: the order of calls
// and answers, and what becomes of plans that are begun when something fails.
#include <chrono>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <thread>

#include "core/base/quoted.h"
#include "tests/support/fake_executor.h"
#include "tests/support/status_matchers.h"
#include "worker/pipeline_stage.h"

namespace penstock {
namespace {

StepPlan Plan(uint64_t number, uint32_t epoch) {
  StepPlan plan;
  plan.number = number;
  plan.epoch = epoch;
  PlanRow row;
  row.generation = 1;
  row.tokens = {7};
  row.blocks = {1};
  row.sample = true;
  plan.rows = {row};
  return plan;
}

// A device whose steps are done when the test says so.
class AheadExecutor final : public StageExecutor {
 public:
  struct Device {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<std::string> calls;
    uint64_t done = 0;     // plans up to this one are
    uint64_t alone = 0;    // this one cannot be begun behind another
    uint64_t failing = 0;  // this one cannot be begun
    uint64_t spoiled = 0;  // this one's Finish fails

    void Release(uint64_t plan) {
      std::lock_guard<std::mutex> lock(mutex);
      done = plan;
      changed.notify_all();
    }
    void Await(const std::string& call) {
      std::unique_lock<std::mutex> lock(mutex);
      changed.wait(lock, [&] { return std::count(calls.begin(), calls.end(), call) > 0; });
    }
    std::vector<std::string> Calls() {
      std::lock_guard<std::mutex> lock(mutex);
      return std::exchange(calls, {});
    }
  };

  explicit AheadExecutor(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  absl::StatusOr<StageInfo> Load(const StageOptions&, const ProgressCallback&) override {
    return FakeExecutor::Info({});
  }
  absl::StatusOr<StepResult> Execute(const StepPlan&) override {
    return absl::InternalError("it runs ahead");
  }
  bool runs_ahead() const override { return true; }
  bool CanBegin(const StepPlan& plan) const override {
    return begun_.empty() || (begun_.size() == 1 && plan.number != device_->alone);
  }
  absl::Status Begin(const StepPlan& plan) override {
    if (plan.number == device_->failing) return absl::FailedPreconditionError("not this one");
    begun_.push_back(&plan);
    Note("begin", plan.number);
    return absl::OkStatus();
  }
  bool IsDone() const override {
    std::lock_guard<std::mutex> lock(device_->mutex);
    return begun_.empty() || begun_.front()->number <= device_->done;
  }
  absl::StatusOr<StepResult> Finish() override {
    const StepPlan& plan = *begun_.front();
    begun_.pop_front();
    {
      std::unique_lock<std::mutex> lock(device_->mutex);
      device_->changed.wait(lock, [&] { return plan.number <= device_->done; });
    }
    Note("finish", plan.number);
    if (plan.number == device_->spoiled) return absl::InternalError("spoiled");
    StepResult result;
    result.number = plan.number;
    result.epoch = plan.epoch;
    return result;
  }

 private:
  void Note(std::string_view what, uint64_t plan) {
    std::lock_guard<std::mutex> lock(device_->mutex);
    device_->calls.push_back(absl::StrCat(Abs(what), " ", plan));
    device_->changed.notify_all();
  }

  const std::shared_ptr<Device> device_;
  std::deque<const StepPlan*> begun_;
};

class AheadStageTest : public ::testing::Test {
 protected:
  AheadStageTest() {
    EXPECT_TRUE(IsOk(stage_.Load(StageOptions{}, [](const LoadProgress&) {})));
  }

  void Begin(uint32_t epoch, uint64_t first) {
    EpochStart start;
    start.epoch = epoch;
    start.first_plan = first;
    start.num_blocks = 2;
    ASSERT_TRUE(IsOk(stage_.BeginEpoch(start)));
  }
  // Answers go to `answers_` in their order.
  void Submit(const StepPlan& plan) {
    stage_.Submit(plan, [this, number = plan.number](absl::StatusOr<StepResult> result) {
      std::lock_guard<std::mutex> lock(mutex_);
      answers_.push_back(absl::StrCat(number, result.ok() ? " ok" : " failed"));
      changed_.notify_all();
    });
  }
  std::vector<std::string> Answers(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return answers_.size() >= count; });
    return std::exchange(answers_, {});
  }

  using Calls = std::vector<std::string>;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> answers_;
  const std::shared_ptr<AheadExecutor::Device> device_ = std::make_shared<AheadExecutor::Device>();
  PipelineStage stage_{std::make_unique<AheadExecutor>(device_), nullptr};
};

TEST_F(AheadStageTest, APlanIsBegunWhileTheOneBeforeItRuns) {
  Begin(1, 1);
  Submit(Plan(1, 1));
  device_->Await("begin 1");
  EXPECT_EQ(stage_.beat().current, 1u);
  EXPECT_EQ(stage_.beat().doing, StageBeat::Doing::kComputes);
  Submit(Plan(2, 1));
  device_->Await("begin 2");
  EXPECT_EQ(stage_.beat().current, 1u);
  EXPECT_EQ(stage_.beat().queued, 0);
  device_->Release(1);
  EXPECT_EQ(Answers(1), Calls({"1 ok"}));
  while (stage_.beat().current != 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(stage_.beat().doing, StageBeat::Doing::kComputes);
  EXPECT_EQ(stage_.beat().done, 1u);
  device_->Release(2);
  EXPECT_EQ(Answers(1), Calls({"2 ok"}));
  EXPECT_EQ(device_->Calls(), Calls({"begin 1", "begin 2", "finish 1", "finish 2"}));
  EXPECT_EQ(stage_.beat().current, 0u);
  EXPECT_EQ(stage_.beat().done, 2u);
}

TEST_F(AheadStageTest, OneThatNeedsTheResultsBeforeItWaitsForThem) {
  device_->alone = 2;
  Begin(1, 1);
  Submit(Plan(1, 1));
  device_->Await("begin 1");
  Submit(Plan(2, 1));
  Submit(Plan(3, 1));
  device_->Release(1);
  device_->Await("begin 3");
  device_->Release(3);
  EXPECT_EQ(Answers(3), Calls({"1 ok", "2 ok", "3 ok"}));
  EXPECT_EQ(device_->Calls(),
            Calls({"begin 1", "finish 1", "begin 2", "begin 3", "finish 2", "finish 3"}));
}

// What was begun before it is answered first.
TEST_F(AheadStageTest, APlanThatFailsEndsTheEpochBehindThoseBefore) {
  device_->failing = 2;
  Begin(1, 1);
  Submit(Plan(1, 1));
  device_->Await("begin 1");
  Submit(Plan(2, 1));
  Submit(Plan(3, 1));
  device_->Release(9);
  EXPECT_EQ(Answers(2), Calls({"1 ok", "2 failed"}));
  // One that is refused before it gets there.
  Begin(2, 4);
  EXPECT_EQ(device_->Calls(), Calls({"begin 1", "finish 1"}));
  device_->Release(3);
  Submit(Plan(4, 2));
  device_->Await("begin 4");
  StepPlan bad = Plan(5, 2);
  bad.rows.clear();
  Submit(bad);
  device_->Release(9);
  EXPECT_EQ(Answers(2), Calls({"4 ok", "5 failed"}));
  // And one whose result fails: what was begun behind it is not answered.
  Begin(3, 6);
  device_->Calls();
  device_->Release(5);
  device_->spoiled = 6;
  Submit(Plan(6, 3));
  device_->Await("begin 6");
  Submit(Plan(7, 3));
  device_->Await("begin 7");
  device_->Release(9);
  EXPECT_EQ(Answers(1), Calls({"6 failed"}));
  device_->Await("finish 7");
  EXPECT_TRUE(Answers(0).empty());
}

TEST_F(AheadStageTest, ANewEpochWaitsForWhatIsBegunAndAnswersNothingOfIt) {
  Begin(1, 1);
  Submit(Plan(1, 1));
  device_->Await("begin 1");
  Submit(Plan(2, 1));
  device_->Await("begin 2");
  auto begun = std::async(std::launch::async, [&] { Begin(2, 3); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  device_->Release(2);
  begun.get();
  EXPECT_EQ(device_->Calls(), Calls({"begin 1", "begin 2", "finish 1", "finish 2"}));
  EXPECT_TRUE(Answers(0).empty());
  device_->Release(3);
  Submit(Plan(3, 2));
  EXPECT_EQ(Answers(1), Calls({"3 ok"}));
}

}  // namespace
}  // namespace penstock
