#include "frontend/worker_launcher.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "frontend/embedded_worker.h"
#include "tests/support/processes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/worker_pipeline.h"
#include "worker/stage.h"

namespace penstock {
namespace {

const std::vector<int32_t> kPrompt = {1, 5, 9, 200, 17};

// Processes whose parent this is.
std::vector<pid_t> ChildrenOf(int64_t parent) {
  std::vector<pid_t> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    if (entry.path().filename().string().find_first_not_of("0123456789") != std::string::npos) {
      continue;
    }
    std::ifstream file(entry.path() / "stat");
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const size_t name_end = text.rfind(')');
    if (name_end == std::string::npos) continue;
    long ppid = 0;
    if (sscanf(text.c_str() + name_end, ") %*c %ld", &ppid) == 1 && ppid == parent) {
      children.push_back(static_cast<pid_t>(std::stol(entry.path().filename())));
    }
  }
  std::sort(children.begin(), children.end());
  return children;
}

// Made by main, before there is any thread.
ProcessSpawner* spawner = nullptr;

class WorkerLauncherTest : public testing::Test {
 protected:
  // Every test leaves no process behind.
  ~WorkerLauncherTest() override { EXPECT_EQ(Workers(), std::vector<pid_t>()); }

  static std::vector<pid_t> Workers() { return ChildrenOf(spawner->helper_pid()); }

  WorkerLauncher launcher_{*spawner, {.program = PENSTOCK_TEST_WORKER, .version = "test"}};
};

// Another process that stands for `penstock serve`, with two loaded stages (RunFrontEnd).
struct FrontEnd {
  FrontEnd() {
    const std::string file = testing::TempDir() + "/front_end";
    std::filesystem::remove(file);
    pid = fork();
    if (pid == 0) {
      execl("/proc/self/exe", "worker_launcher_test", "--front-end", file.c_str(), nullptr);
      _exit(127);
    }
    EXPECT_TRUE(Eventually([&] { return std::filesystem::exists(file); }));
    std::ifstream(file) >> helper >> folder;
  }
  ~FrontEnd() {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  pid_t pid = 0;
  pid_t helper = 0;
  std::string folder;
};

TEST_F(WorkerLauncherTest, TwoProcessesAnswerAsOneStageDoes) {
  EmbeddedWorker embedded(&MakeModelStage);
  std::vector<int32_t> expected;
  {
    WorkerPipeline alone(embedded, 1);
    alone.LoadAll();
    alone.BeginEpoch(1);
    expected = alone.Generate(kPrompt, 20);
  }
  WorkerPipeline pipeline(launcher_, 2);
  pipeline.LoadAll();
  EXPECT_EQ(Workers().size(), 2u);
  EXPECT_EQ(pipeline.info(0).model_hash, pipeline.info(1).model_hash);
  EXPECT_EQ(pipeline.info(1).layers.first, 2);
  EXPECT_EQ(pipeline.info(1).layers.last, 4);
  pipeline.BeginEpoch(1);
  EXPECT_EQ(pipeline.Generate(kPrompt, 20), expected);
  // Plans in flight together.
  pipeline.Submit(kPrompt, 0);
  pipeline.Submit({expected[0]}, 5);
  pipeline.Submit({expected[1]}, 6);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(pipeline.Result(), expected[i]);
  // Sockets that nobody else can use.
  int sockets = 0;
  for (const auto& entry : std::filesystem::directory_iterator(spawner->folder())) {
    struct stat info = {};
    ASSERT_EQ(stat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u) << entry.path();
    ++sockets;
  }
  EXPECT_GE(sockets, 2);
}

TEST_F(WorkerLauncherTest, ADeadWorkerIsNoticedAndReplaced) {
  WorkerPipeline pipeline(launcher_, 2);
  pipeline.LoadAll();
  pipeline.BeginEpoch(1);
  const std::vector<int32_t> expected = pipeline.Generate(kPrompt, 10);
  const std::vector<pid_t> before = Workers();
  ASSERT_EQ(before.size(), 2u);
  // The second stage, which has started last, waits for rows while it dies.
  const auto killed_at = absl::Now();
  kill(before[1], SIGKILL);
  const StageLost lost = pipeline.events(1).Next<StageLost>();
  RecordProperty("noticed_after_us",
                 static_cast<int>(absl::ToInt64Microseconds(absl::Now() - killed_at)));
  EXPECT_TRUE(
      Fails(lost.status, absl::StatusCode::kUnavailable, {"stage 1", "killed by signal 9"}));
  EXPECT_EQ(pipeline.events(1).left(), 0u);
  // The first one lives, stays loaded, and enters an epoch with the newcomer.
  pipeline.Connect(1);
  pipeline.Load(1);
  pipeline.TakeInfo(1);
  pipeline.BeginEpoch(2);
  EXPECT_EQ(pipeline.Generate(kPrompt, 10), expected);
  EXPECT_EQ(Workers()[0], before[0]);
}

TEST_F(WorkerLauncherTest, APlanOfADeadPeerFailsTheEpochOnly) {
  WorkerPipeline pipeline(launcher_, 2);
  pipeline.LoadAll();
  pipeline.BeginEpoch(1);
  pipeline.Generate(kPrompt, 1);
  pipeline.connection(0).Kill();
  EXPECT_TRUE(Fails(pipeline.events(0).Next<StageLost>().status, absl::StatusCode::kUnavailable,
                    {"stage 0", "killed by signal 9"}));
  pipeline.Submit({3}, 5);  // the first stage's part goes nowhere
  const EpochFailed failed = pipeline.events(1).Next<EpochFailed>();
  EXPECT_EQ(failed.epoch, 1u);
  EXPECT_EQ(failed.status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(WorkerLauncherTest, AStoppedWorkerIsKilled) {
  WorkerPipeline pipeline(launcher_, 1);
  pipeline.LoadAll();
  const std::vector<pid_t> workers = Workers();
  ASSERT_EQ(workers.size(), 1u);
  kill(workers[0], SIGSTOP);
  pipeline.connection(0).Kill();
  pipeline.events(0).Next<StageLost>();
}

TEST_F(WorkerLauncherTest, AModelThatIsNotThere) {
  StageEvents events;
  const auto connection = launcher_.Connect(0, events.callback());
  connection->Load({.model = "/no/such/model.gguf", .kv_memory_bytes = 1 << 20});
  EXPECT_TRUE(Fails(events.Next<StageLost>().status, absl::StatusCode::kNotFound,
                    {"stage 0", "/no/such/model.gguf"}));
}

TEST_F(WorkerLauncherTest, AProgramThatIsNotThere) {
  WorkerLauncher launcher(*spawner, {.program = "/no/such/worker"});
  StageEvents events;
  const auto connection = launcher.Connect(0, events.callback());
  EXPECT_TRUE(Fails(events.Next<StageLost>().status, absl::StatusCode::kUnavailable,
                    {"stage 0", "could not be started", "No such file"}));
  EXPECT_TRUE(Fails(FindWorkerProgram("/no/such/worker"), absl::StatusCode::kNotFound,
                    {"/no/such/worker", "--worker-program"}));
  EXPECT_TRUE(Fails(FindWorkerProgram(""), absl::StatusCode::kNotFound, {"penstock-worker"}));
  EXPECT_EQ(*FindWorkerProgram(PENSTOCK_TEST_WORKER), PENSTOCK_TEST_WORKER);
}

// A worker that ends on its own, before it has answered.
TEST_F(WorkerLauncherTest, AProgramThatIsNoWorker) {
  WorkerLauncher launcher(*spawner, {.program = "/bin/false"});
  StageEvents events;
  const auto connection = launcher.Connect(0, events.callback());
  EXPECT_TRUE(Fails(events.Next<StageLost>().status, absl::StatusCode::kUnavailable,
                    {"ended with exit code 1"}));
}

TEST_F(WorkerLauncherTest, AWorkerThatIsTerminatedFinishesItsPlans) {
  WorkerPipeline pipeline(launcher_, 1);
  pipeline.LoadAll();
  pipeline.BeginEpoch(1);
  pipeline.Generate(kPrompt, 1);
  kill(Workers().at(0), SIGTERM);
  EXPECT_TRUE(Fails(pipeline.events(0).Next<StageLost>().status, absl::StatusCode::kUnavailable,
                    {"stage 0", "told to stop"}));
}

TEST_F(WorkerLauncherTest, ConnectionsThatGoTakeTheirProcessesAlong) {
  for (int i = 0; i < 3; ++i) {
    StageEvents events;
    const auto connection = launcher_.Connect(0, events.callback());
    if (i == 1) connection->Load({.model = "dummy:tiny", .kv_memory_bytes = 1 << 20});
    if (i == 2) {
      EXPECT_TRUE(Eventually([] { return Workers().size() == 1; }));
    }
  }
}

// The front end itself is killed: its workers and their sockets are gone.
TEST_F(WorkerLauncherTest, NoWorkerOutlivesItsFrontEnd) {
  const FrontEnd front_end;
  const std::vector<pid_t> workers = ChildrenOf(front_end.helper);
  ASSERT_EQ(workers.size(), 2u);
  for (const pid_t worker : workers) EXPECT_TRUE(IsAlive(worker));
  kill(front_end.pid, SIGKILL);
  for (const pid_t worker : workers) EXPECT_TRUE(Eventually([&] { return !IsAlive(worker); }));
  EXPECT_TRUE(Eventually([&] { return !IsAlive(front_end.helper); }));
  EXPECT_FALSE(std::filesystem::exists(front_end.folder));
}

// The same while its helper is stopped and can do nothing: the end of the stream is enough.
TEST_F(WorkerLauncherTest, AWorkerEndsWithItsStream) {
  const FrontEnd front_end;
  const std::vector<pid_t> workers = ChildrenOf(front_end.helper);
  ASSERT_EQ(workers.size(), 2u);
  kill(front_end.helper, SIGSTOP);
  kill(front_end.pid, SIGKILL);
  for (const pid_t worker : workers) EXPECT_TRUE(Eventually([&] { return !IsAlive(worker); }));
  kill(front_end.helper, SIGCONT);
  EXPECT_TRUE(Eventually([&] { return !IsAlive(front_end.helper); }));
}

int RunFrontEnd(const std::string& file) {
  WorkerLauncher launcher(*spawner, {.program = PENSTOCK_TEST_WORKER});
  WorkerPipeline pipeline(launcher, 2);
  pipeline.LoadAll();
  pipeline.BeginEpoch(1);
  std::ofstream(file + ".part") << spawner->helper_pid() << " " << spawner->folder();
  std::filesystem::rename(file + ".part", file);
  pause();
  return 1;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  auto spawner = penstock::ProcessSpawner::Fork();
  if (!spawner.ok()) return 1;
  penstock::spawner = spawner->get();
  if (argc == 3 && std::string(argv[1]) == "--front-end") return penstock::RunFrontEnd(argv[2]);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
