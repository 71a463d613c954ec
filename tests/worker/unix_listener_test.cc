#include "worker/unix_listener.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>

#include "tests/support/processes.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

class UnixListenerTest : public testing::Test {
 protected:
  UnixListenerTest() {
    std::string name = "/tmp/penstock-test-XXXXXX";
    folder_ = mkdtemp(name.data());
    path_ = folder_ + "/sockets/worker";
  }
  ~UnixListenerTest() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<std::unique_ptr<UnixListener>> Listen(const std::string& path) {
    return UnixListener::Listen(path, [this](int descriptor) {
      ++connections_;
      send(descriptor, "!", 1, MSG_NOSIGNAL);
      close(descriptor);
    });
  }
  // What comes from the socket: "!" from the listener, nothing if it closes the connection, and "?"
  // if there is none to be had.
  static char Greeting(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    const int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char greeting = '?';
    if (connect(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
        read(descriptor, &greeting, 1) <= 0) {
      greeting = '0';
    }
    close(descriptor);
    return greeting;
  }
  static unsigned Mode(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return info.st_mode & 0777;
  }

  std::string folder_;
  std::string path_;
  std::atomic<int> connections_ = 0;
};

TEST_F(UnixListenerTest, OnlyItsUserCanReachIt) {
  const mode_t old = umask(0);
  const auto listener = Listen(path_);
  umask(old);
  ASSERT_TRUE(IsOk(listener));
  EXPECT_EQ(Mode(path_), 0600u);
  EXPECT_EQ(Mode(folder_ + "/sockets"), 0700u);
  EXPECT_EQ(Greeting(path_), '!');
  EXPECT_EQ(Greeting(path_), '!');
  EXPECT_EQ(connections_, 2);
}

TEST_F(UnixListenerTest, GoesWithItsSocket) {
  auto listener = Listen(path_);
  ASSERT_TRUE(IsOk(listener));
  listener->reset();
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(UnixListenerTest, RefusesAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be another user";
  const auto listener = Listen(path_);
  ASSERT_TRUE(IsOk(listener));
  // Somebody has opened all doors.
  chmod(folder_.c_str(), 0755);
  chmod((folder_ + "/sockets").c_str(), 0755);
  chmod(path_.c_str(), 0666);
  const pid_t stranger = fork();
  if (stranger == 0) {
    if (setuid(65534) != 0) _exit('s');
    _exit(Greeting(path_));
  }
  int status = 0;
  ASSERT_EQ(waitpid(stranger, &status, 0), stranger);
  EXPECT_EQ(WEXITSTATUS(status), '0');
  EXPECT_EQ(connections_, 0);
  EXPECT_EQ(Greeting(path_), '!');
}

TEST_F(UnixListenerTest, RefusesAFolderThatOthersMayEnter) {
  std::filesystem::create_directory(folder_ + "/open");
  chmod((folder_ + "/open").c_str(), 0750);
  EXPECT_TRUE(Fails(Listen(folder_ + "/open/worker"), absl::StatusCode::kFailedPrecondition,
                    {"/open", "0700"}));
  EXPECT_TRUE(Fails(Listen(folder_ + "/no/such/worker"), absl::StatusCode::kFailedPrecondition,
                    {"cannot be made", "--listen"}));
}

TEST_F(UnixListenerTest, RefusesNamesThatAreNone) {
  for (const std::string& path :
       {std::string(), std::string("worker"), folder_ + "/" + std::string(100, 'x')}) {
    EXPECT_TRUE(Fails(Listen(path), absl::StatusCode::kInvalidArgument, {"107 bytes"})) << path;
  }
}

TEST_F(UnixListenerTest, ReplacesASocketOfTheDeadButNoOther) {
  const auto listener = Listen(path_);
  ASSERT_TRUE(IsOk(listener));
  EXPECT_TRUE(
      Fails(Listen(path_), absl::StatusCode::kAlreadyExists, {"another program", "--listen"}));
  EXPECT_EQ(Greeting(path_), '!');

  // A process that is killed leaves its socket behind.
  const std::string other = folder_ + "/sockets/other";
  const pid_t child = fork();
  if (child == 0) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, other.c_str(), sizeof(address.sun_path) - 1);
    const int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);
    (void)bind(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof(address));
    _exit(listen(descriptor, 1));
  }
  waitpid(child, nullptr, 0);
  EXPECT_EQ(Greeting(other), '?');
  const auto second = Listen(other);
  ASSERT_TRUE(IsOk(second));
  EXPECT_EQ(Greeting(other), '!');
}

}  // namespace
}  // namespace penstock
