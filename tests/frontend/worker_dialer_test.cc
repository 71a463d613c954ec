#include "frontend/worker_dialer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "frontend/embedded_worker.h"
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
  for (int i = 0; i < 2; ++i) {
    WorkerPipeline pipeline(**dialer, 2);
    pipeline.LoadAll();
    // With port 0 the worker does not know where others find it; the front end does.
    EXPECT_EQ(pipeline.info(1).address, workers[1].address());
    pipeline.BeginEpoch(1 + 1000 * static_cast<uint32_t>(i));  // PipelineOptions::first_epoch
    EXPECT_EQ(pipeline.Generate(kPrompt, 10), expected);
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
