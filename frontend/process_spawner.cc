#include "frontend/process_spawner.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "core/base/check.h"
#include "frontend/spawn_helper.h"

namespace penstock {
namespace {

absl::Status SystemError(const char* what) {
  return absl::InternalError(
      absl::StrCat(what, " failed: ", strerror(errno), ": look at the limits of this user"));
}

std::string Describe(int wait_status) {
  if (WIFSIGNALED(wait_status)) {
    const int signal = WTERMSIG(wait_status);
    return absl::StrCat("was killed by signal ", signal, " (", strsignal(signal), ")");
  }
  return absl::StrCat("ended with exit code ", WEXITSTATUS(wait_status));
}

std::string SocketFolderTemplate() {
  const char* const runtime = getenv("XDG_RUNTIME_DIR");
  // The name of a socket has room for 107 bytes.
  const bool usable = runtime != nullptr && runtime[0] == '/' && strlen(runtime) <= 48 &&
                      access(runtime, W_OK) == 0;
  return absl::StrCat(usable ? runtime : "/tmp", "/penstock-XXXXXX");
}

}  // namespace

struct ProcessSpawner::ChildState {
  std::mutex mutex;
  std::condition_variable changed;
  // All below is guarded by mutex.
  OnEnd on_end;  // empty once it is not wanted any more
  int64_t pid = 0;
  bool ended = false;
};

class ProcessSpawner::Child final : public ChildProcess {
 public:
  Child(ProcessSpawner& spawner, uint64_t id, std::shared_ptr<ChildState> state)
      : spawner_(spawner), id_(id), state_(std::move(state)) {}

  ~Child() override {
    {
      std::lock_guard<std::mutex> lock(state_->mutex);
      state_->on_end = nullptr;
    }
    Kill();
    WaitForEnd(absl::InfiniteDuration());
  }

  int64_t pid() const override {
    std::lock_guard<std::mutex> lock(state_->mutex);
    return state_->pid;
  }

  void Kill() override {
    const SpawnMessage message = {SpawnMessage::Kind::kSignal, SIGKILL, id_};
    send(spawner_.socket_, &message, sizeof(message), MSG_NOSIGNAL);
  }

  bool WaitForEnd(absl::Duration limit) override {
    std::unique_lock<std::mutex> lock(state_->mutex);
    const auto ended = [this] { return state_->ended; };
    if (limit == absl::InfiniteDuration()) {
      state_->changed.wait(lock, ended);
      return true;
    }
    return state_->changed.wait_for(lock, absl::ToChronoNanoseconds(limit), ended);
  }

 private:
  ProcessSpawner& spawner_;
  const uint64_t id_;
  const std::shared_ptr<ChildState> state_;
};

absl::StatusOr<std::unique_ptr<ProcessSpawner>> ProcessSpawner::Fork() {
  std::string folder = SocketFolderTemplate();
  if (mkdtemp(folder.data()) == nullptr) {
    return absl::InternalError(absl::StrCat("a folder for sockets, ", folder,
                                            ", cannot be made: ", strerror(errno),
                                            ": set XDG_RUNTIME_DIR to a folder of this user's"));
  }
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    rmdir(folder.c_str());
    return SystemError("socketpair");
  }
  const pid_t pid = fork();
  if (pid == 0) {
    close(ends[0]);
    RunSpawnHelper(ends[1], folder);
  }
  close(ends[1]);
  if (pid < 0) {
    const absl::Status status = SystemError("fork");
    close(ends[0]);
    rmdir(folder.c_str());
    return status;
  }
  return std::unique_ptr<ProcessSpawner>(new ProcessSpawner(ends[0], pid, std::move(folder)));
}

ProcessSpawner::~ProcessSpawner() {
  // For the helper this is our end, and for our own thread the helper's.
  shutdown(socket_, SHUT_WR);
  if (thread_.joinable()) thread_.join();
  close(socket_);
  while (waitpid(static_cast<pid_t>(helper_pid_), nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::unique_ptr<ChildProcess> ProcessSpawner::Start(const std::vector<std::string>& command,
                                                    OnEnd on_end) {
  PENSTOCK_CHECK(!command.empty());
  const auto state = std::make_shared<ChildState>();
  state->on_end = std::move(on_end);
  uint64_t id = 0;
  bool gone = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    id = ++last_id_;
    gone = helper_gone_;
    children_[id] = state;
    if (!thread_.joinable()) thread_ = std::thread([this] { Listen(); });
  }
  auto child = std::make_unique<Child>(*this, id, state);
  const SpawnMessage message = {SpawnMessage::Kind::kStart, 0, id};
  std::string packet(reinterpret_cast<const char*>(&message), sizeof(message));
  for (const std::string& word : command) packet.append(word.c_str(), word.size() + 1);
  if (static_cast<int64_t>(packet.size()) > kMaxSpawnBytes) {
    Tell(id, "could not be started: its arguments are too long: shorten its paths");
  } else if (gone || send(socket_, packet.data(), packet.size(), MSG_NOSIGNAL) < 0) {
    Tell(id, "could not be started: the process that starts others is gone: restart the server");
  }
  return child;
}

std::shared_ptr<ProcessSpawner::ChildState> ProcessSpawner::Find(uint64_t id) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = children_.find(id);
  return found == children_.end() ? nullptr : found->second;
}

void ProcessSpawner::Tell(uint64_t id, const std::string& how) {
  std::shared_ptr<ChildState> state;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = children_.find(id);
    if (found == children_.end()) return;
    state = std::move(found->second);
    children_.erase(found);
  }
  std::lock_guard<std::mutex> lock(state->mutex);
  state->ended = true;
  // Under the lock, so that none comes once ~Child has returned.
  if (state->on_end) state->on_end(how);
  state->changed.notify_all();
}

void ProcessSpawner::Listen() {
  SpawnMessage message;
  while (true) {
    const ssize_t size = recv(socket_, &message, sizeof(message), 0);
    if (size < 0 && errno == EINTR) continue;
    if (size != sizeof(message)) break;
    if (message.kind == SpawnMessage::Kind::kStarted) {
      if (const std::shared_ptr<ChildState> state = Find(message.id)) {
        std::lock_guard<std::mutex> lock(state->mutex);
        state->pid = message.value;
      }
    } else if (message.kind == SpawnMessage::Kind::kFailed) {
      Tell(message.id, absl::StrCat("could not be started: ", strerror(message.value)));
    } else {
      Tell(message.id, Describe(message.value));
    }
  }
  // The helper has died, and by PR_SET_PDEATHSIG all its children with it.
  std::vector<uint64_t> ids;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    helper_gone_ = true;
    for (const auto& [id, state] : children_) ids.push_back(id);
  }
  for (const uint64_t id : ids) {
    Tell(id, "was killed together with the process that starts workers: restart the server");
  }
}

}  // namespace penstock
