// Starts tests/support/transfer_peer.cc, a stage's process as far as transports see it. It is
// killed when this is destroyed. PENSTOCK_TEST_TRANSFER_PEER names the program where the tests run
// elsewhere than they were built.
#pragma once

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "core/base/check.h"

extern char** environ;

namespace penstock::testing {

class TransferPeer {
 public:
  TransferPeer(std::string role, std::string address) : address_(address) {
    int ends[2];
    PENSTOCK_CHECK_EQ(pipe(ends), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    const char* const elsewhere = std::getenv("PENSTOCK_TEST_TRANSFER_PEER");
    std::string program = elsewhere != nullptr ? elsewhere : PENSTOCK_TRANSFER_PEER;
    std::array<char*, 4> arguments = {program.data(), role.data(), address.data(), nullptr};
    PENSTOCK_CHECK_EQ(
        posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    output_ = ends[0];
  }
  ~TransferPeer() {
    Signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(output_);
    // A killed server leaves its socket behind.
    if (address_.rfind("unix:", 0) == 0) unlink(address_.c_str() + 5);
  }
  TransferPeer(const TransferPeer&) = delete;
  TransferPeer& operator=(const TransferPeer&) = delete;

  // False: it has ended.
  bool WaitReady() const {
    char first = 0;
    return read(output_, &first, 1) == 1 && first == 'r';
  }
  // The address that it has told; after WaitReady.
  std::string ReadAddress() const {
    std::string line;
    for (char next = 0; read(output_, &next, 1) == 1 && next != '\n';) line += next;
    return line.substr(std::min(line.size(), line.find(' ') + 1));
  }
  // Until so many more transfers have been received. False: it has ended.
  bool WaitReceived(int count) const {
    char next = 0;
    while (count > 0 && read(output_, &next, 1) == 1) count -= next == '.' ? 1 : 0;
    return count == 0;
  }
  void Signal(int signal) const { kill(pid_, signal); }
  // Waits until the process is stopped, not only told to stop.
  void Stop() const {
    Signal(SIGSTOP);
    PENSTOCK_CHECK_EQ(waitpid(pid_, nullptr, WUNTRACED), pid_);
  }

 private:
  const std::string address_;
  pid_t pid_ = 0;
  int output_ = -1;
};

}  // namespace penstock::testing
