// ProcessSpawner: starts programs from a small helper process that was forked before this one had
// threads, so that no lock of gRPC's or malloc's is copied into a child, and tells at once how they
// end. No program outlives this process: the helper sees its end, ends them all, and then itself.
//
// It also owns a folder for sockets, which only this user may enter and which the helper removes.
// Thread rule: any thread, after Fork.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "core/base/status.h"

namespace penstock {

// A program that was started, or will be in a moment.
class ChildProcess {
 public:
  virtual ~ChildProcess() = default;  // kills it and waits for its end; nothing is told after that
  virtual int64_t pid() const = 0;    // 0: not known yet
  virtual void Kill() = 0;            // SIGKILL; no-op if it has ended
  virtual bool WaitForEnd(absl::Duration limit) = 0;  // false if it still runs then
};

class ProcessSpawner {
 public:
  // "was killed by signal 9 (Killed)", "ended with exit code 1", "could not be started: ...": goes
  // on after the name of a program. On the spawner's thread; must not block.
  using OnEnd = std::function<void(const std::string& how)>;

  // REQUIRES: this process has no other thread. Errors: those of the system.
  static absl::StatusOr<std::unique_ptr<ProcessSpawner>> Fork();
  // Ends what still runs. REQUIRES: the ChildProcesses are gone.
  ~ProcessSpawner();
  ProcessSpawner(const ProcessSpawner&) = delete;
  ProcessSpawner& operator=(const ProcessSpawner&) = delete;

  // `command`: an absolute path, then its arguments. Standard input is empty, output and errors go
  // where this process's go. Any failure is told by `on_end`, once.
  std::unique_ptr<ChildProcess> Start(const std::vector<std::string>& command, OnEnd on_end);

  const std::string& folder() const { return folder_; }
  int64_t helper_pid() const { return helper_pid_; }

 private:
  class Child;
  struct ChildState;

  ProcessSpawner(int socket, int64_t helper_pid, std::string folder)
      : socket_(socket), helper_pid_(helper_pid), folder_(std::move(folder)) {}
  void Listen();
  std::shared_ptr<ChildState> Find(uint64_t id);
  void Tell(uint64_t id, const std::string& how);

  const int socket_;
  const int64_t helper_pid_;
  const std::string folder_;

  std::mutex mutex_;
  std::map<uint64_t, std::shared_ptr<ChildState>> children_;  // that have not ended, by id
  uint64_t last_id_ = 0;                                      // guarded by mutex_
  bool helper_gone_ = false;                                  // guarded by mutex_
  std::thread thread_;                                        // starts with the first child
};

}  // namespace penstock
