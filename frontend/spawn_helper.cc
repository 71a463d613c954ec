#include "frontend/spawn_helper.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <vector>

namespace penstock {
namespace {

// What children get to end by themselves once nobody needs them; their streams have broken, too.
constexpr std::chrono::milliseconds kGrace{2000};

sigset_t ChildSignal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  return set;
}

class Helper {
 public:
  explicit Helper(int socket) : socket_(socket) {
    const sigset_t set = ChildSignal();
    sigprocmask(SIG_BLOCK, &set, nullptr);
    signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  }

  void ServeUntilClosed() {
    while (true) {
      pollfd fds[] = {{socket_, POLLIN, 0}, {signals_, POLLIN, 0}};
      if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
      if (fds[1].revents != 0) Reap();
      if (fds[0].revents != 0 && !Serve()) return;
    }
  }

  void EndChildren() {
    const auto end = std::chrono::steady_clock::now() + kGrace;
    SignalAll(SIGTERM);
    while (!pids_.empty()) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          end - std::chrono::steady_clock::now());
      if (left.count() <= 0) SignalAll(SIGKILL);
      pollfd fd = {signals_, POLLIN, 0};
      poll(&fd, 1, left.count() > 0 ? static_cast<int>(left.count()) : 100);
      Reap();
    }
  }

 private:
  void SignalAll(int signal) {
    for (const auto& [id, pid] : pids_) kill(pid, signal);
  }

  void Tell(SpawnMessage::Kind kind, int value, uint64_t id) {
    const SpawnMessage message = {kind, value, id};
    send(socket_, &message, sizeof(message), MSG_NOSIGNAL);
  }

  // False once the other end is closed.
  bool Serve() {
    std::vector<char> packet(static_cast<size_t>(kMaxSpawnBytes));
    const ssize_t size = recv(socket_, packet.data(), packet.size(), 0);
    if (size < 0 && errno == EINTR) return true;
    SpawnMessage message;
    if (size < static_cast<ssize_t>(sizeof(message))) return false;
    memcpy(&message, packet.data(), sizeof(message));
    if (message.kind == SpawnMessage::Kind::kSignal) {
      // A child that has been reaped is no longer here: its pid may be another's.
      if (const auto found = pids_.find(message.id); found != pids_.end()) {
        kill(found->second, message.value);
      }
      return true;
    }
    std::vector<char*> words;
    char* const end = packet.data() + size;
    for (char* word = packet.data() + sizeof(message); word < end; word += strlen(word) + 1) {
      words.push_back(word);
    }
    words.push_back(nullptr);
    Start(message.id, words.data());
    return true;
  }

  void Start(uint64_t id, char** words) {
    int pipe_ends[2];
    if (pipe2(pipe_ends, O_CLOEXEC) != 0) {
      Tell(SpawnMessage::Kind::kFailed, errno, id);
      return;
    }
    const pid_t helper = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
      Exec(words, helper);
      const int error = errno;
      [[maybe_unused]] const ssize_t written = write(pipe_ends[1], &error, sizeof(error));
      _exit(127);
    }
    int error = pid < 0 ? errno : 0;
    close(pipe_ends[1]);
    // Closed by exec, or there are the bytes of an error.
    if (pid > 0 && read(pipe_ends[0], &error, sizeof(error)) == sizeof(error)) {
      waitpid(pid, nullptr, 0);
    }
    close(pipe_ends[0]);
    if (error != 0) {
      Tell(SpawnMessage::Kind::kFailed, error, id);
      return;
    }
    pids_[id] = pid;
    Tell(SpawnMessage::Kind::kStarted, pid, id);
  }

  // In the child. Returns if it cannot be done.
  static void Exec(char** words, pid_t helper) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != helper) _exit(127);  // it has died before that
    const sigset_t set = ChildSignal();
    sigprocmask(SIG_UNBLOCK, &set, nullptr);
    for (const int each : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) signal(each, SIG_DFL);
    const int empty = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (empty < 0 || dup2(empty, STDIN_FILENO) < 0) return;
    execv(words[0], words);
  }

  void Reap() {
    signalfd_siginfo info;
    while (read(signals_, &info, sizeof(info)) > 0) {
    }
    int status = 0;
    for (pid_t pid = waitpid(-1, &status, WNOHANG); pid > 0; pid = waitpid(-1, &status, WNOHANG)) {
      for (auto each = pids_.begin(); each != pids_.end(); ++each) {
        if (each->second != pid) continue;
        Tell(SpawnMessage::Kind::kEnded, status, each->first);
        pids_.erase(each);
        break;
      }
    }
  }

  const int socket_;
  int signals_ = -1;
  std::map<uint64_t, pid_t> pids_;  // by id
};

void RemoveFolder(const std::string& folder) {
  if (DIR* const directory = opendir(folder.c_str()); directory != nullptr) {
    while (const dirent* const entry = readdir(directory)) {
      if (entry->d_name[0] != '.') unlinkat(dirfd(directory), entry->d_name, 0);
    }
    closedir(directory);
  }
  rmdir(folder.c_str());
}

}  // namespace

void RunSpawnHelper(int socket, const std::string& folder) {
  // A session of its own: Ctrl-C in a terminal is for the front end alone, which drains.
  setsid();
  for (const int each : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) signal(each, SIG_IGN);
  prctl(PR_SET_NAME, "penstock-spawn");
  Helper helper(socket);
  helper.ServeUntilClosed();
  helper.EndChildren();
  RemoveFolder(folder);
  _exit(0);
}

}  // namespace penstock
