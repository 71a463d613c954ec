#include "worker/worker_service.h"

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <thread>

#include "frontend/embedded_worker.h"
#include "frontend/worker_link.h"
#include "tests/support/fake_executor.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

// Keeps what a link calls back.
class Results {
 public:
  StageLink::ResultCallback callback() {
    return [this](absl::StatusOr<StepResult> result) {
      std::lock_guard<std::mutex> lock(mutex_);
      results_.push_back(std::move(result));
      changed_.notify_all();
    };
  }
  std::vector<absl::StatusOr<StepResult>> Wait(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return results_.size() >= count; });
    return results_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<absl::StatusOr<StepResult>> results_;  // guarded by mutex_
};

class WorkerServiceTest : public testing::Test {
 protected:
  WorkerServiceTest()
      : control_(std::make_shared<FakeStageControl>()),
        worker_(std::make_unique<FakeExecutor>(FakeModelOptions(), control_)) {}
  // Nothing waits for a stage that a failed test has left held.
  ~WorkerServiceTest() override { control_->Release(); }

  std::unique_ptr<WorkerLink> Connect() {
    auto link = std::make_unique<WorkerLink>(worker_.channel());
    link->SetResultCallback(results_.callback());
    return link;
  }
  // One token of one sequence a plan.
  static StepPlan Plan(uint64_t number, uint32_t epoch = 1) {
    StepPlan plan;
    plan.number = number;
    plan.epoch = epoch;
    if (number == 1) plan.admissions.push_back({0, 1, {}, 0, {}});
    PlanRow row;
    row.slot = 0;
    row.generation = 1;
    row.position = static_cast<int64_t>(number) - 1;
    row.tokens = {static_cast<int32_t>(number % 50)};
    row.blocks.assign(static_cast<size_t>(BlocksFor(row.position + 1)), 0);
    for (size_t i = 0; i < row.blocks.size(); ++i) row.blocks[i] = static_cast<int32_t>(i);
    plan.rows.push_back(row);
    return plan;
  }

  const std::shared_ptr<FakeStageControl> control_;
  EmbeddedWorker worker_;
  Results results_;
};

TEST_F(WorkerServiceTest, LoadsAndSaysWhatItLoaded) {
  const std::unique_ptr<WorkerLink> link = Connect();
  const absl::StatusOr<StageInfo> info = link->Load({.model = "a.gguf"});
  ASSERT_TRUE(IsOk(info));
  EXPECT_EQ(info->config.vocab_size, 50);
  EXPECT_EQ(info->num_blocks, 32);
}

TEST_F(WorkerServiceTest, TellsHowFarLoadingHasCome) {
  const std::unique_ptr<WorkerLink> link = Connect();
  std::mutex mutex;
  std::vector<LoadProgress> told;
  ASSERT_TRUE(IsOk(link->Load({.model = "slow.gguf"}, [&](const LoadProgress& progress) {
    std::lock_guard<std::mutex> lock(mutex);
    told.push_back(progress);
  })));
  std::lock_guard<std::mutex> lock(mutex);
  ASSERT_GE(told.size(), 1u);
  EXPECT_LT(told.size(), static_cast<size_t>(FakeExecutor::kSlowTensors));
  for (size_t i = 0; i < told.size(); ++i) {
    EXPECT_EQ(told[i].total, FakeExecutor::kSlowTensors);
    EXPECT_EQ(told[i].tensor, absl::StrCat("tensor ", told[i].done));
    if (i > 0) {
      EXPECT_GT(told[i].done, told[i - 1].done);
    }
  }
}

TEST_F(WorkerServiceTest, PassesLoadErrorsOn) {
  const std::unique_ptr<WorkerLink> link = Connect();
  EXPECT_TRUE(
      Fails(link->Load({.model = "missing.gguf"}), absl::StatusCode::kNotFound, {"missing.gguf"}));
}

TEST_F(WorkerServiceTest, ExecutesInOrderWhatIsSentAtOnce) {
  const std::unique_ptr<WorkerLink> link = Connect();
  ASSERT_TRUE(IsOk(link->Load({})));
  // More than the service reads ahead.
  constexpr uint64_t kPlans = 300;
  control_->Hold();
  for (uint64_t number = 1; number <= kPlans; ++number) link->Submit(Plan(number));
  control_->Release();
  const std::vector<absl::StatusOr<StepResult>> results = results_.Wait(kPlans);
  ASSERT_EQ(results.size(), kPlans);
  for (uint64_t number = 1; number <= kPlans; ++number) {
    ASSERT_TRUE(IsOk(results[number - 1]));
    EXPECT_EQ(results[number - 1]->number, number);
  }
}

TEST_F(WorkerServiceTest, AnErrorEndsTheEpoch) {
  const std::unique_ptr<WorkerLink> link = Connect();
  ASSERT_TRUE(IsOk(link->Load({})));
  control_->FailAt(2, absl::FailedPreconditionError("no such block"));
  for (uint64_t number = 1; number <= 4; ++number) link->Submit(Plan(number));
  link->Submit(Plan(2, /*epoch=*/2));
  const std::vector<absl::StatusOr<StepResult>> results = results_.Wait(5);
  ASSERT_EQ(results.size(), 5u);
  EXPECT_TRUE(IsOk(results[0]));
  for (size_t i = 1; i <= 3; ++i) {
    EXPECT_TRUE(Fails(results[i], absl::StatusCode::kFailedPrecondition, {"no such block"}));
  }
  // Plans 3 and 4 of the dead epoch were not run; the one of the next epoch was.
  EXPECT_EQ(control_->executed(), (std::vector<uint64_t>{1, 2, 2}));
}

TEST_F(WorkerServiceTest, AClientThatLeavesTakesItsPlansAlong) {
  constexpr uint64_t kPlans = 60;
  std::unique_ptr<WorkerLink> link = Connect();
  ASSERT_TRUE(IsOk(link->Load({})));
  control_->Hold();
  for (uint64_t number = 1; number <= kPlans; ++number) link->Submit(Plan(number));
  control_->WaitForPlans(1);
  link.reset();
  // Every plan in flight was answered before the link went.
  const std::vector<absl::StatusOr<StepResult>> results = results_.Wait(kPlans);
  ASSERT_EQ(results.size(), kPlans);
  for (const absl::StatusOr<StepResult>& result : results) {
    EXPECT_TRUE(Fails(result, absl::StatusCode::kUnavailable, {"stream ended"}));
  }
  // The worker hears of it a little later; without that the stage would run all of them.
  for (int i = 0; i < 20; ++i) {
    control_->Permit(1);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  control_->Release();
  // The worker is there for the next client.
  const std::unique_ptr<WorkerLink> next = Connect();
  ASSERT_TRUE(IsOk(next->Load({})));
  const std::vector<uint64_t> executed = control_->executed();
  EXPECT_LT(executed.size(), kPlans);
  next->Submit(Plan(executed.back() + 1));
  const std::vector<absl::StatusOr<StepResult>> all = results_.Wait(kPlans + 1);
  ASSERT_EQ(all.size(), kPlans + 1);
  EXPECT_TRUE(IsOk(all.back()));
}

TEST_F(WorkerServiceTest, AnswersWhatIsNoRequest) {
  const auto stub = worker::v1::Worker::NewStub(worker_.channel());
  grpc::ClientContext context;
  const auto stream = stub->Control(&context);
  worker::v1::ControlRequest request;
  ASSERT_TRUE(stream->Write(request));
  request.mutable_plan()->set_number(1);
  request.mutable_plan()->add_rows()->set_slot(-1);
  ASSERT_TRUE(stream->Write(request));
  stream->WritesDone();
  worker::v1::ControlResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.error().code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_NE(response.error().message().find("PlanRow.slot"), std::string::npos);
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(control_->executed().empty());
}

TEST(WorkerLinkTest, SaysThatThereIsNoWorker) {
  WorkerLink link(grpc::CreateChannel("127.0.0.1:1", grpc::InsecureChannelCredentials()));
  Results results;
  link.SetResultCallback(results.callback());
  EXPECT_TRUE(Fails(link.Load({}), absl::StatusCode::kUnavailable, {"control stream ended"}));
  link.Submit({});
  EXPECT_TRUE(Fails(results.Wait(1).at(0), absl::StatusCode::kUnavailable, {"stream ended"}));
}

}  // namespace
}  // namespace penstock
