#include "frontend/worker_dialer.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "absl/time/clock.h"
#include "frontend/embedded_worker.h"
#include "frontend/pipeline_coordinator.h"
#include "frontend/process_spawner.h"
#include "tests/support/certificates.h"
#include "tests/support/processes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/worker_pipeline.h"
#include "worker/stage.h"

namespace penstock {
namespace {

const std::vector<int32_t> kPrompt = {1, 5, 9, 200, 17};
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// Made by main, before there is any thread.
ProcessSpawner* spawner = nullptr;

// A worker that somebody else has started, on a free port of localhost.
class Worker {
 public:
  explicit Worker(const std::vector<std::string>& arguments = {}) {
    static int number = 0;
    const std::string file = testing::TempDir() + "/port-" + std::to_string(++number);
    std::filesystem::remove(file);
    std::vector<std::string> command = {PENSTOCK_TEST_WORKER, "--listen", "127.0.0.1:0",
                                        "--port-file", file};
    command.insert(command.end(), arguments.begin(), arguments.end());
    process_ = spawner->Start(command, [](const std::string&) {});
    EXPECT_TRUE(Eventually([&] { return std::filesystem::exists(file); }));
    std::ifstream(file) >> port_;
  }
  static std::vector<std::string> Tls(const TlsFiles& tls) {
    return {"--tls-cert", tls.cert, "--tls-key", tls.key, "--tls-ca", tls.ca};
  }
  std::string address() const { return "localhost:" + port_; }

 private:
  std::unique_ptr<ChildProcess> process_;
  std::string port_;
};

std::vector<int32_t> AloneAnswer() {
  EmbeddedWorker embedded(&MakeModelStage);
  WorkerPipeline alone(embedded, 1);
  alone.LoadAll();
  alone.BeginEpoch(1);
  return alone.Generate(kPrompt, 10);
}

absl::Status WhyLost(const WorkerDialOptions& options) {
  const auto dialer = WorkerDialer::Make(options);
  if (!dialer.ok()) return dialer.status();
  StageEvents events;
  const auto connection = (*dialer)->Connect(0, events.callback());
  return events.Next<StageLost>().status;
}

TEST(WorkerListTest, ReadsAddresses) {
  EXPECT_EQ(*ParseWorkerList("a:1,127.0.0.1:2,[::1]:3,unix:/x"),
            (std::vector<std::string>{"a:1", "127.0.0.1:2", "[::1]:3", "unix:/x"}));
  EXPECT_TRUE(Fails(ParseWorkerList(""), kInvalid, {"HOST:PORT"}));
  EXPECT_TRUE(Fails(ParseWorkerList("a:1,"), kInvalid, {"HOST:PORT"}));
  EXPECT_TRUE(Fails(ParseWorkerList("a:1,b:0"), kInvalid, {"b:0"}));
  EXPECT_TRUE(Fails(ParseWorkerList("0.0.0.0:1"), kInvalid, {"0.0.0.0:1"}));
  EXPECT_TRUE(Fails(ParseWorkerList("a:1,b:1,a:1"), kInvalid, {"a:1", "twice"}));
}

TEST(WorkerDialerTest, ReachesOtherMachinesByTlsOnly) {
  EXPECT_TRUE(Fails(WorkerDialer::Make({.addresses = {"127.0.0.1:1", "10.0.0.1:1"}}),
                    absl::StatusCode::kFailedPrecondition, {"10.0.0.1:1", "--tls-cert"}));
  EXPECT_TRUE(IsOk(WorkerDialer::Make({.addresses = {"127.0.0.1:1", "localhost:2", "unix:/a"}})));
  EXPECT_TRUE(Fails(WorkerDialer::Make({.addresses = {"a:1"}, .tls = {"/no/cert", "", ""}}),
                    absl::StatusCode::kNotFound, {"--tls-cert", "/no/cert"}));
}

TEST(WorkerDialerTest, SaysThatThereIsNoWorker) {
  EXPECT_TRUE(
      Fails(WhyLost({.addresses = {"127.0.0.1:1"}, .connect_limit = absl::Milliseconds(100)}),
            absl::StatusCode::kUnavailable,
            {"stage 0 at 127.0.0.1:1", "within 100ms", "Connection refused"}));
}

TEST(WorkerDialerTest, AWorkerServesOneFrontEndAfterTheOther) {
  const std::vector<int32_t> expected = AloneAnswer();
  const Worker workers[2];
  const auto dialer =
      WorkerDialer::Make({.addresses = {workers[0].address(), workers[1].address()}});
  ASSERT_TRUE(IsOk(dialer));
  for (uint32_t i = 0; i < 2; ++i) {
    WorkerPipeline pipeline(**dialer, 2);
    pipeline.LoadAll();
    // With port 0 the worker does not know where others find it; the front end does.
    EXPECT_EQ(pipeline.info(1).address, workers[1].address());
    EXPECT_EQ(pipeline.info(1).last_epoch, i);
    pipeline.BeginEpoch(pipeline.info(1).last_epoch + 1);
    EXPECT_EQ(pipeline.Generate(kPrompt, 10), expected);
  }
}

// Two stages of which the second hears of an epoch late: once the first, which sends to it, has
// failed to enter it, or has had time to come to it.
class SenderFirst final : public StageProvider {
 public:
  explicit SenderFirst(StageProvider& provider, std::vector<std::string>* failures)
      : provider_(provider), failures_(*failures) {}

  std::unique_ptr<StageConnection> Connect(int32_t stage, EventCallback events) override {
    const auto watch = [this, events = std::move(events)](StageEvent event) {
      if (const auto* const failed = std::get_if<EpochFailed>(&event)) {
        std::lock_guard<std::mutex> lock(mutex_);
        failures_.push_back(failed->status.ToString());
        failed_.notify_all();
      }
      events(std::move(event));
    };
    return std::make_unique<Connection>(*this, stage, provider_.Connect(stage, watch));
  }

 private:
  class Connection final : public StageConnection {
   public:
    Connection(SenderFirst& owner, int32_t stage, std::unique_ptr<StageConnection> connection)
        : owner_(owner), stage_(stage), connection_(std::move(connection)) {}
    void Load(const StageOptions& options) override { connection_->Load(options); }
    void BeginEpoch(const EpochStart& start) override {
      if (stage_ == 1) owner_.WaitForSender();
      connection_->BeginEpoch(start);
    }
    void Submit(const StepPlan& plan) override { connection_->Submit(plan); }
    void Kill() override { connection_->Kill(); }

   private:
    SenderFirst& owner_;
    const int32_t stage_;
    const std::unique_ptr<StageConnection> connection_;
  };

  void WaitForSender() {
    std::unique_lock<std::mutex> lock(mutex_);
    failed_.wait_for(lock, std::chrono::milliseconds(500), [this] { return !failures_.empty(); });
  }

  StageProvider& provider_;
  std::mutex mutex_;
  std::condition_variable failed_;
  std::vector<std::string>& failures_;  // guarded by mutex_
};

// Each front end counted epochs from 1, or from the second in which it began: a worker that had
// that epoch of the one before took this one's sender for late.
TEST(WorkerDialerTest, ASenderThatComesBeforeItsReceiverIsNotOfTheLastFrontEnd) {
  const Worker workers[2];
  const auto dialer =
      WorkerDialer::Make({.addresses = {workers[0].address(), workers[1].address()}});
  ASSERT_TRUE(IsOk(dialer));
  PipelineOptions options;
  options.stage.model = "dummy:tiny";
  options.stage.kv_memory_bytes = 1 << 20;
  options.stage.max_step_tokens = 64;
  options.stage.max_sequences = 4;
  options.stage.threads = 1;
  options.layers = {{0, 2}, {2, 4}};
  options.hang_limit = absl::Minutes(1);  // a busy machine is no reason
  options.connect_limit = absl::Minutes(1);
  for (uint32_t epoch = 1; epoch <= 3; ++epoch) {
    std::vector<std::string> failures;
    {
      PipelineCoordinator coordinator(std::make_unique<SenderFirst>(**dialer, &failures), options);
      coordinator.Start(absl::Now());
      EXPECT_TRUE(Eventually([&] {
        coordinator.Advance(absl::Now());
        return coordinator.state() == PipelineState::kReady;
      })) << coordinator.status();
      EXPECT_EQ(coordinator.epoch(), epoch);
    }
    EXPECT_EQ(failures, std::vector<std::string>());
  }
}

TEST(WorkerDialerTest, AWorkerSaysWhereItIsFound) {
  const Worker worker({"--advertise", "127.0.0.1:4711"});
  const auto dialer = WorkerDialer::Make({.addresses = {worker.address()}});
  WorkerPipeline pipeline(**dialer, 1);
  pipeline.LoadAll();
  EXPECT_EQ(pipeline.info(0).address, "127.0.0.1:4711");
}

TEST(WorkerDialerTest, MutualTls) {
  const Certificates authority;
  const TlsFiles mine = authority.Make("front");
  const Worker workers[2] = {Worker(Worker::Tls(authority.Make("w0"))),
                             Worker(Worker::Tls(authority.Make("w1")))};
  WorkerDialOptions options = {.addresses = {workers[0].address(), workers[1].address()},
                               .tls = mine};
  {
    const auto dialer = WorkerDialer::Make(options);
    ASSERT_TRUE(IsOk(dialer));
    WorkerPipeline pipeline(**dialer, 2);
    pipeline.LoadAll();
    pipeline.BeginEpoch(1);  // and so by TLS from stage to stage
    EXPECT_EQ(pipeline.Generate(kPrompt, 10), AloneAnswer());
  }
  options.connect_limit = absl::Milliseconds(500);
  // Without TLS.
  WorkerDialOptions plain = options;
  plain.tls = {};
  EXPECT_TRUE(Fails(WhyLost(plain), absl::StatusCode::kUnavailable, {"could not be reached"}));
  // With a certificate of another authority, whose word the client takes itself.
  const Certificates other;
  TlsFiles stranger = other.Make("stranger");
  stranger.ca = mine.ca;
  WorkerDialOptions strange = options;
  strange.tls = stranger;
  EXPECT_TRUE(Fails(WhyLost(strange), absl::StatusCode::kUnavailable, {"could not be reached"}));
  // A worker of another authority is not believed either.
  WorkerDialOptions doubting = options;
  doubting.tls.ca = stranger.ca = other.Make("x").ca;
  EXPECT_TRUE(Fails(WhyLost(doubting), absl::StatusCode::kUnavailable, {"could not be reached"}));
  // None of them has kept the worker from its front end.
  const auto dialer = WorkerDialer::Make({.addresses = options.addresses, .tls = mine});
  WorkerPipeline pipeline(**dialer, 2);
  pipeline.LoadAll();
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  auto spawner = penstock::ProcessSpawner::Fork();
  if (!spawner.ok()) return 1;
  penstock::spawner = spawner->get();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
