#include "worker/worker_service.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "frontend/worker_connection.h"
#include "proto/worker_codec.h"
#include "tests/support/fake_stage_host.h"
#include "tests/support/stage_events.h"
#include "tests/support/status_matchers.h"
#include "worker/pipeline_stage.h"

namespace penstock {
namespace {

using worker::v1::ControlRequest;
using worker::v1::ControlResponse;

StepPlan Plan(uint64_t number, uint32_t epoch = 1) {
  StepPlan plan;
  plan.number = number;
  plan.epoch = epoch;
  if (number == 1) plan.admissions.push_back({0, 1, {}, 0, {}});
  PlanRow row;
  row.generation = 1;
  row.position = static_cast<int64_t>(number) - 1;
  row.tokens = {3};
  row.blocks = {0};
  plan.rows.push_back(row);
  return plan;
}

const EpochStart kEpoch1{1, 1, 32, "", "", 0};
const EpochStart kEpoch2{2, 10, 32, "unix:/next", "unix:/first", 77};

class WorkerServiceTest : public testing::Test {
 protected:
  explicit WorkerServiceTest(WorkerServiceOptions options = {.version = "1.2.3"})
      : control_(std::make_shared<FakeHostControl>()) {
    options.on_owned = [this] { ++owned_; };
    options.on_left = [this] { ++left_; };
    options.on_freed = [this] { ++freed_; };
    StartServer([control = control_] { return std::make_unique<FakeStageHost>(control); },
                std::move(options));
  }
  ~WorkerServiceTest() override {
    channel_.reset();
    server_->Shutdown();
  }

  void StartServer(WorkerService::MakeStage make_stage, WorkerServiceOptions options = {}) {
    if (server_ != nullptr) server_->Shutdown();
    server_.reset();
    service_ = std::make_unique<WorkerService>(std::move(make_stage), std::move(options));
    grpc::ServerBuilder builder;
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    channel_ = server_->InProcessChannel({});
  }

  std::unique_ptr<WorkerConnection> Connect(StageEvents& events,
                                            WorkerConnectionOptions options = {}) {
    return std::make_unique<WorkerConnection>([channel = channel_] { return channel; },
                                              std::move(options), events.callback());
  }
  std::unique_ptr<WorkerConnection> ConnectLoaded(StageEvents& events) {
    std::unique_ptr<WorkerConnection> connection = Connect(events);
    connection->Load({.model = "a.gguf"});
    events.Next<StageInfo>();
    return connection;
  }
  std::unique_ptr<WorkerConnection> ConnectReady(StageEvents& events) {
    std::unique_ptr<WorkerConnection> connection = ConnectLoaded(events);
    connection->BeginEpoch(kEpoch1);
    EXPECT_EQ(events.Next<EpochEntered>().epoch, 1u);
    return connection;
  }
  // What the worker says to a stream that opens with this.
  grpc::Status StatusOf(const ControlRequest& request) {
    const auto stub = worker::v1::Worker::NewStub(channel_);
    grpc::ClientContext context;
    const auto stream = stub->Control(&context);
    stream->Write(request);
    ControlResponse response;
    while (stream->Read(&response)) {
    }
    return stream->Finish();
  }
  static bool Within(const std::function<bool()>& condition) {
    for (int i = 0; i < 6000 && !condition(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return condition();
  }

  const std::shared_ptr<FakeHostControl> control_;
  std::atomic<int> owned_ = 0;
  std::atomic<int> left_ = 0;
  std::atomic<int> freed_ = 0;
  std::unique_ptr<WorkerService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(WorkerServiceTest, LoadsAndSaysWhatItLoaded) {
  StageEvents events;
  const auto connection = Connect(events, {.address = "unix:/dialled"});
  connection->Load({.model = "a.gguf", .threads = 3});
  const StageInfo info = events.Next<StageInfo>();
  EXPECT_EQ(info.config.vocab_size, 50);
  EXPECT_EQ(info.num_blocks, 32);
  // A stage that does not know its address is found where the front end has found it.
  EXPECT_EQ(info.address, "unix:/dialled");
  EXPECT_EQ(control_->loaded().model, "a.gguf");
  EXPECT_EQ(control_->loaded().threads, 3);
}

TEST_F(WorkerServiceTest, TellsHowFarLoadingHasCome) {
  control_->SetLoadTime(std::chrono::milliseconds(600));
  StageEvents events;
  const auto connection = ConnectLoaded(events);
  const std::vector<LoadProgress> told = events.Progress(1);
  ASSERT_GE(told.size(), 1u);
  // Ten times a second at most; the fake tells it at up to 200.
  EXPECT_LE(told.size(), 6u);
  for (size_t i = 0; i < told.size(); ++i) {
    EXPECT_EQ(told[i].tensor, absl::StrCat("tensor ", told[i].done));
    if (i > 0) {
      EXPECT_GT(told[i].done, told[i - 1].done);
    }
  }
}

TEST_F(WorkerServiceTest, RefusingToLoadIsLosingTheStage) {
  control_->SetLoadStatus(absl::NotFoundError("missing.gguf: no such file"));
  StageEvents events;
  const auto connection = Connect(events, {.name = "stage 3"});
  connection->Load({.model = "missing.gguf"});
  EXPECT_TRUE(Fails(events.Next<StageLost>().status, absl::StatusCode::kNotFound,
                    {"stage 3", "missing.gguf"}));
  EXPECT_TRUE(control_->WaitForFreed(1));
}

class WorkerWithAModelTest : public WorkerServiceTest {
 protected:
  WorkerWithAModelTest() : WorkerServiceTest({.model = "/here.gguf", .threads = 0}) {}
};

TEST_F(WorkerWithAModelTest, PrefersItsOwnSettings) {
  StageEvents events;
  const auto connection = Connect(events);
  connection->Load({.model = "/there.gguf", .max_sequences = 7, .threads = 5});
  events.Next<StageInfo>();
  EXPECT_EQ(control_->loaded().model, "/here.gguf");
  EXPECT_EQ(control_->loaded().threads, 0);
  EXPECT_EQ(control_->loaded().max_sequences, 7);
}

TEST_F(WorkerServiceTest, RefusesAnotherProtocol) {
  ControlRequest request;
  EncodeHello({kWorkerProtocol + 1, "9.9", 0, 0}, request.mutable_hello());
  const grpc::Status status = StatusOf(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  for (const char* part : {"1.2.3", "9.9", "use programs of one release"}) {
    EXPECT_NE(status.error_message().find(part), std::string::npos) << status.error_message();
  }
  ControlRequest load;
  load.mutable_load();
  EXPECT_EQ(StatusOf(load).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(StatusOf({}).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  request.mutable_hello()->set_pid(-1);
  EXPECT_EQ(StatusOf(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(owned_, 0);
}

TEST_F(WorkerServiceTest, AnswersTheHello) {
  const auto stub = worker::v1::Worker::NewStub(channel_);
  grpc::ClientContext context;
  const auto stream = stub->Control(&context);
  ControlRequest request;
  EncodeHello({}, request.mutable_hello());
  ASSERT_TRUE(stream->Write(request));
  ControlResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.hello().protocol(), kWorkerProtocol);
  EXPECT_EQ(response.hello().version(), "1.2.3");
  EXPECT_EQ(response.hello().pid(), getpid());
  // What is no request ends the stream.
  ASSERT_TRUE(stream->Write(ControlRequest()));
  while (stream->Read(&response)) EXPECT_TRUE(response.has_beat());
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(control_->WaitForFreed(1));
}

TEST_F(WorkerServiceTest, HasOneOwnerAtATime) {
  StageEvents first_events;
  auto first = ConnectReady(first_events);
  ControlRequest hello;
  EncodeHello({}, hello.mutable_hello());
  const grpc::Status status = StatusOf(hello);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(status.error_message().find("another front end"), std::string::npos);
  // A connection tries until its limit, and says why.
  StageEvents late_events;
  const auto late = Connect(late_events, {.connect_limit = absl::Milliseconds(200)});
  EXPECT_TRUE(Fails(late_events.Next<StageLost>().status, absl::StatusCode::kUnavailable,
                    {"within 200ms", "another front end"}));
  // And one that is patient gets the worker once the first has left: a stage of its own.
  StageEvents events;
  const auto second = Connect(events);
  second->Load({.model = "b.gguf"});
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(events.left(), 0u);
  EXPECT_TRUE(control_->WaitForMade(1));
  first.reset();
  events.Next<StageInfo>();
  EXPECT_EQ(control_->loaded().model, "b.gguf");
  EXPECT_TRUE(control_->WaitForFreed(1));
  EXPECT_EQ(owned_, 2);
  EXPECT_EQ(left_, 1);
  EXPECT_EQ(freed_, 1);
}

TEST_F(WorkerServiceTest, TellsTheNextFrontEndTheLastEpoch) {
  StageEvents events[4];
  auto connection = Connect(events[0]);
  connection->Load({});
  EXPECT_EQ(events[0].Next<StageInfo>().last_epoch, 0u);
  connection->BeginEpoch(kEpoch1);
  connection->BeginEpoch(kEpoch2);
  for (const uint32_t epoch : {1u, 2u}) EXPECT_EQ(events[0].Next<EpochEntered>().epoch, epoch);
  connection.reset();
  connection = Connect(events[1]);
  connection->Load({});
  EXPECT_EQ(events[1].Next<StageInfo>().last_epoch, 2u);
  // One that it has not been in counts: senders may have come with it.
  control_->SetEpochStatus(absl::UnavailableError("no way"));
  EpochStart start = kEpoch1;
  start.epoch = 9;
  connection->BeginEpoch(start);
  EXPECT_EQ(events[1].Next<EpochFailed>().epoch, 9u);
  // What is no start does not; nor does a lower one.
  start.epoch = 0;
  connection->BeginEpoch(start);
  EXPECT_EQ(events[1].Next<EpochFailed>().epoch, 0u);
  connection.reset();
  connection = Connect(events[2]);
  connection->Load({});
  EXPECT_EQ(events[2].Next<StageInfo>().last_epoch, 9u);
  connection->BeginEpoch(kEpoch1);
  EXPECT_EQ(events[2].Next<EpochFailed>().epoch, 1u);
  connection.reset();
  connection = Connect(events[3]);
  connection->Load({});
  EXPECT_EQ(events[3].Next<StageInfo>().last_epoch, 9u);
}

TEST_F(WorkerServiceTest, BeginsEpochsAndAnswersPlansInOrder) {
  StageEvents events;
  const auto connection = ConnectReady(events);
  constexpr uint64_t kPlans = 100;
  for (uint64_t number = 1; number <= kPlans; ++number) connection->Submit(Plan(number));
  // All are with the stage before one is answered.
  ASSERT_TRUE(control_->WaitForPlans(kPlans));
  for (uint64_t number = 1; number <= kPlans; ++number) {
    EXPECT_EQ(control_->Answer(), number);
    EXPECT_EQ(events.Next<StepResult>().number, number);
  }
  connection->BeginEpoch(kEpoch2);
  EXPECT_EQ(events.Next<EpochEntered>().epoch, 2u);
  EXPECT_EQ(control_->begun().first_plan, 10u);
  EXPECT_EQ(control_->begun().next, "unix:/next");
  EXPECT_EQ(control_->begun().first, "unix:/first");
  EXPECT_EQ(control_->begun().connect_ns, 77);
}

TEST_F(WorkerServiceTest, AFailureEndsTheEpochOnce) {
  StageEvents events;
  const auto connection = ConnectReady(events);
  for (uint64_t number = 1; number <= 3; ++number) connection->Submit(Plan(number));
  ASSERT_TRUE(control_->WaitForPlans(3));
  control_->Answer();
  EXPECT_EQ(events.Next<StepResult>().number, 1u);
  control_->Answer(absl::DeadlineExceededError("no rows in time"));
  const EpochFailed failed = events.Next<EpochFailed>();
  EXPECT_EQ(failed.epoch, 1u);
  EXPECT_EQ(failed.plan, 2u);
  EXPECT_TRUE(Fails(failed.status, absl::StatusCode::kDeadlineExceeded, {"no rows in time"}));
  // What the stage still says of that epoch is dropped, and so are its plans.
  control_->Answer();
  connection->Submit(Plan(4));
  connection->BeginEpoch({2, 5, 32, "", "", 0});
  EXPECT_EQ(events.Next<EpochEntered>().epoch, 2u);
  connection->Submit(Plan(5, 2));
  EXPECT_EQ(control_->Answer(), 5u);
  EXPECT_EQ(events.Next<StepResult>().number, 5u);
}

TEST_F(WorkerServiceTest, SaysWhenAnEpochCannotBegin) {
  StageEvents events;
  const auto connection = Connect(events);
  connection->BeginEpoch(kEpoch1);
  EXPECT_TRUE(Fails(events.Next<EpochFailed>().status, absl::StatusCode::kFailedPrecondition,
                    {"nothing is loaded"}));
  connection->Load({});
  events.Next<StageInfo>();
  connection->BeginEpoch({3, 0, 32, "", "", 0});
  EXPECT_TRUE(Fails(events.Next<EpochFailed>().status, absl::StatusCode::kInvalidArgument,
                    {"EpochStart.first_plan"}));
  control_->SetEpochStatus(absl::UnavailableError("the next stage cannot be reached"));
  connection->BeginEpoch({4, 1, 32, "", "", 0});
  const EpochFailed failed = events.Next<EpochFailed>();
  EXPECT_EQ(failed.epoch, 4u);
  EXPECT_EQ(failed.plan, 0u);
  EXPECT_TRUE(Fails(failed.status, absl::StatusCode::kUnavailable, {"cannot be reached"}));
  // A plan of an epoch that nobody has begun is the front end's mistake, and it is told.
  connection->Submit(Plan(1, 5));
  EXPECT_TRUE(Fails(events.Next<EpochFailed>().status, absl::StatusCode::kFailedPrecondition,
                    {"epoch 5", "not begun"}));
}

TEST_F(WorkerServiceTest, AMalformedPlanEndsTheEpoch) {
  StageEvents events;
  const auto connection = ConnectReady(events);
  StepPlan plan = Plan(1);
  plan.rows[0].position = -1;
  connection->Submit(plan);
  const EpochFailed failed = events.Next<EpochFailed>();
  EXPECT_EQ(failed.plan, 1u);
  EXPECT_TRUE(Fails(failed.status, absl::StatusCode::kInvalidArgument, {"PlanRow.position"}));
}

TEST_F(WorkerServiceTest, ALoadComesOnce) {
  StageEvents events;
  const auto connection = ConnectLoaded(events);
  connection->Load({});
  EXPECT_TRUE(Fails(events.Next<StageLost>().status, absl::StatusCode::kFailedPrecondition,
                    {"loads once"}));
}

TEST_F(WorkerServiceTest, AFrontEndThatLeavesTakesItsStageAlong) {
  StageEvents events;
  auto connection = ConnectReady(events);
  connection->Submit(Plan(1));
  ASSERT_TRUE(control_->WaitForPlans(1));
  connection.reset();
  EXPECT_EQ(events.left(), 0u);  // no event of its own doing
  EXPECT_TRUE(control_->WaitForAbandoned(1));
  EXPECT_TRUE(control_->WaitForFreed(1));
  EXPECT_TRUE(Within([this] { return freed_ == 1; }));
  EXPECT_EQ(left_, 1);
}

TEST_F(WorkerServiceTest, LeavingWhileItLoadsAbandonsTheStageAtOnce) {
  control_->SetLoadTime(std::chrono::hours(1));
  StageEvents events;
  auto connection = Connect(events);
  connection->Load({});
  events.Progress(1);
  connection.reset();
  EXPECT_TRUE(control_->WaitForFreed(1));
}

TEST_F(WorkerServiceTest, BeatsWhileAPlanIsStuck) {
  const auto stuck = std::make_shared<FakeStageControl>();
  StartServer([stuck] {
    return std::make_unique<PipelineStage>(
        std::make_unique<FakeExecutor>(FakeModelOptions(), stuck), nullptr);
  });
  StageEvents events;
  auto connection = Connect(events, {.beat_period = absl::Milliseconds(5)});
  connection->Load({});
  events.Next<StageInfo>();
  connection->BeginEpoch(kEpoch1);
  events.Next<EpochEntered>();
  stuck->Hold();
  connection->Submit(Plan(1));
  connection->Submit(Plan(2));
  stuck->WaitForPlans(1);
  const size_t before = events.Beats(0).size();
  const std::vector<StageBeat> beats = events.Beats(before + 10);
  ASSERT_GE(beats.size(), before + 10);
  const StageBeat& last = beats.back();
  EXPECT_EQ(last.epoch, 1u);
  EXPECT_EQ(last.done, 0u);
  EXPECT_EQ(last.current, 1u);
  EXPECT_EQ(last.doing, StageBeat::Doing::kComputes);
  EXPECT_GT(last.doing_ns, 0);
  EXPECT_GT(last.resident_bytes, 1 << 20);
  EXPECT_GT(last.cpu_ns, 0);
  EXPECT_EQ(events.left(), 0u);
  stuck->Release();
  EXPECT_EQ(events.Next<StepResult>().number, 1u);
  EXPECT_EQ(events.Next<StepResult>().number, 2u);
  connection.reset();
}

TEST_F(WorkerServiceTest, DrainsWhatItHasAndRefusesTheRest) {
  StageEvents events;
  const auto connection = ConnectReady(events);
  connection->Submit(Plan(1));
  connection->Submit(Plan(2));
  ASSERT_TRUE(control_->WaitForPlans(2));
  EXPECT_TRUE(service_->Drain());
  ControlRequest hello;
  EncodeHello({}, hello.mutable_hello());
  EXPECT_EQ(StatusOf(hello).error_code(), grpc::StatusCode::UNAVAILABLE);
  control_->Answer();
  EXPECT_EQ(events.Next<StepResult>().number, 1u);
  EXPECT_EQ(control_->Answer(), 2u);
  EXPECT_EQ(events.Next<StepResult>().number, 2u);
  EXPECT_TRUE(
      Fails(events.Next<StageLost>().status, absl::StatusCode::kUnavailable, {"told to stop"}));
  EXPECT_TRUE(control_->WaitForFreed(1));
  EXPECT_TRUE(Within([this] { return freed_ == 1; }));
  EXPECT_FALSE(service_->Drain());
}

TEST_F(WorkerServiceTest, RefusesRequestsWithoutEnd) {
  control_->SetLoadTime(std::chrono::hours(1));
  const auto stub = worker::v1::Worker::NewStub(channel_);
  grpc::ClientContext context;
  const auto stream = stub->Control(&context);
  ControlRequest request;
  EncodeHello({}, request.mutable_hello());
  ASSERT_TRUE(stream->Write(request));
  request.mutable_load();
  EncodeStageOptions({}, request.mutable_load());
  ASSERT_TRUE(stream->Write(request));
  EncodeStepPlan(Plan(1), request.mutable_plan());
  std::thread reader([&stream] {
    ControlResponse response;
    while (stream->Read(&response)) {
    }
  });
  int written = 0;
  while (written < 100'000 && stream->Write(request)) ++written;
  EXPECT_LT(written, 100'000);
  reader.join();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(control_->WaitForFreed(1));
}

// A server that goes down under a front end: nothing hangs, nothing is called afterwards.
TEST_F(WorkerServiceTest, EndsUnderALiveFrontEnd) {
  StageEvents events;
  const auto connection = ConnectReady(events);
  connection->Submit(Plan(1));
  ASSERT_TRUE(control_->WaitForPlans(1));
  channel_.reset();
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
  service_.reset();
  EXPECT_TRUE(control_->WaitForFreed(1));
  events.Next<StageLost>();
  StartServer([control = control_] { return std::make_unique<FakeStageHost>(control); });
}

}  // namespace
}  // namespace penstock
