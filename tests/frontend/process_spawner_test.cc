#include "frontend/process_spawner.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "tests/support/processes.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

// What a child's end was.
class End {
 public:
  ProcessSpawner::OnEnd callback() {
    return [this](const std::string& how) {
      std::lock_guard<std::mutex> lock(mutex_);
      how_ = how;
      ++times_;
      changed_.notify_all();
    };
  }
  std::string Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(60), [this] { return times_ > 0; });
    EXPECT_EQ(times_, 1);
    return how_;
  }
  int times() {
    std::lock_guard<std::mutex> lock(mutex_);
    return times_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string how_;
  int times_ = 0;
};

class ProcessSpawnerTest : public testing::Test {
 protected:
  ProcessSpawnerTest() {
    absl::StatusOr<std::unique_ptr<ProcessSpawner>> spawner = ProcessSpawner::Fork();
    EXPECT_TRUE(IsOk(spawner));
    spawner_ = *std::move(spawner);
  }
  std::unique_ptr<ChildProcess> Shell(const std::string& script, End* end) {
    return spawner_->Start({"/bin/sh", "-c", script}, end->callback());
  }

  std::unique_ptr<ProcessSpawner> spawner_;
};

TEST_F(ProcessSpawnerTest, TellsHowAProgramEnds) {
  End ended;
  End failed;
  End killed;
  End missing;
  const auto first = Shell("exit 0", &ended);
  const auto second = Shell("exit 7", &failed);
  const auto third = Shell("kill -SEGV $$", &killed);
  const auto fourth = spawner_->Start({"/no/such/program"}, missing.callback());
  EXPECT_EQ(ended.Wait(), "ended with exit code 0");
  EXPECT_EQ(failed.Wait(), "ended with exit code 7");
  EXPECT_EQ(killed.Wait(), "was killed by signal 11 (Segmentation fault)");
  EXPECT_EQ(missing.Wait(), "could not be started: No such file or directory");
  EXPECT_TRUE(first->WaitForEnd(absl::ZeroDuration()));
}

TEST_F(ProcessSpawnerTest, PassesArgumentsAsTheyAre) {
  const std::string file = testing::TempDir() + "/arguments";
  End end;
  const auto child =
      spawner_->Start({"/bin/sh", "-c", "printf '%s|' \"$@\" > \"$0\"", file, "a b", "", "\xff$x'"},
                      end.callback());
  EXPECT_EQ(end.Wait(), "ended with exit code 0");
  std::ifstream written(file);
  std::string text;
  std::getline(written, text);
  EXPECT_EQ(text, "a b||\xff$x'|");
  End too_long;
  const auto other = spawner_->Start({"/bin/true", std::string(100'000, 'x')}, too_long.callback());
  EXPECT_EQ(too_long.Wait().rfind("could not be started: its arguments are too long", 0), 0u);
}

TEST_F(ProcessSpawnerTest, KillsAndForgets) {
  End end;
  auto child = Shell("exec sleep 1000", &end);
  EXPECT_FALSE(child->WaitForEnd(absl::Milliseconds(20)));
  EXPECT_EQ(end.times(), 0);
  child->Kill();
  EXPECT_EQ(end.Wait(), "was killed by signal 9 (Killed)");
  child->Kill();  // of no effect, and on no other process

  // A child that is destroyed is gone, and nothing is told.
  End silent;
  auto other = Shell("exec sleep 1000", &silent);
  ASSERT_TRUE(Eventually([&] { return other->pid() != 0; }));
  const auto pid = static_cast<pid_t>(other->pid());
  EXPECT_TRUE(IsAlive(pid));
  other.reset();
  EXPECT_FALSE(IsAlive(pid));
  EXPECT_EQ(silent.times(), 0);
}

TEST_F(ProcessSpawnerTest, ChildrenHaveTheirSignalsBack) {
  // The helper ignores these; a worker must be told by them.
  End end;
  const auto child = Shell("kill -TERM $$; exit 3", &end);
  EXPECT_EQ(end.Wait(), "was killed by signal 15 (Terminated)");
}

TEST_F(ProcessSpawnerTest, ItsFolderIsItsUsersOwnAndGoesWithIt) {
  const std::string folder = spawner_->folder();
  struct stat info = {};
  ASSERT_EQ(stat(folder.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  EXPECT_EQ(info.st_uid, geteuid());
  std::ofstream(folder + "/socket") << "x";
  spawner_.reset();
  EXPECT_FALSE(std::filesystem::exists(folder));
}

TEST_F(ProcessSpawnerTest, AHelperThatDiesTakesItsChildrenAlong) {
  End end;
  const auto child = Shell("exec sleep 1000", &end);
  ASSERT_TRUE(Eventually([&] { return child->pid() != 0; }));
  kill(static_cast<pid_t>(spawner_->helper_pid()), SIGKILL);
  EXPECT_NE(end.Wait().find("restart the server"), std::string::npos);
  EXPECT_TRUE(Eventually([&] { return !IsAlive(static_cast<pid_t>(child->pid())); }));
  End next;
  const auto another = Shell("exit 0", &next);
  EXPECT_NE(next.Wait().find("could not be started"), std::string::npos);
}

// A front end that is killed: its children, one of which takes no notice of SIGTERM, are gone, and
// so is the folder.
TEST_F(ProcessSpawnerTest, NothingOutlivesAProcessThatIsKilled) {
  const std::string file = testing::TempDir() + "/pids";
  std::filesystem::remove(file);
  const pid_t parent = fork();
  if (parent == 0) {
    // Of this copy no thread has been started.
    (void)spawner_.release();
    const absl::StatusOr<std::unique_ptr<ProcessSpawner>> own = ProcessSpawner::Fork();
    const auto ignore = [](const std::string&) {};
    const auto first = (*own)->Start({"/bin/sh", "-c", "exec sleep 1000"}, ignore);
    const auto second =
        (*own)->Start({"/bin/sh", "-c", "trap '' TERM; while true; do sleep 1; done"}, ignore);
    while (first->pid() == 0 || second->pid() == 0) usleep(1000);
    std::ofstream(file + ".part") << first->pid() << " " << second->pid() << " "
                                  << (*own)->helper_pid() << " " << (*own)->folder();
    rename((file + ".part").c_str(), file.c_str());
    pause();
    _exit(1);
  }
  ASSERT_TRUE(Eventually([&] { return std::filesystem::exists(file); }));
  pid_t pids[3];
  std::string folder;
  std::ifstream(file) >> pids[0] >> pids[1] >> pids[2] >> folder;
  for (const pid_t pid : pids) EXPECT_TRUE(IsAlive(pid));
  EXPECT_TRUE(std::filesystem::exists(folder));
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  for (const pid_t pid : pids) EXPECT_TRUE(Eventually([&] { return !IsAlive(pid); }));
  EXPECT_FALSE(std::filesystem::exists(folder));
}

}  // namespace
}  // namespace penstock
