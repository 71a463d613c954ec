// UnixListener: a listening Unix socket that only this user can reach. The socket is made with mode
// 0600 in a folder of mode 0700, and whoever connects is asked for its user (SO_PEERCRED): another
// one than this process's, root excepted, is closed, whatever the modes have become since.
// Thread rule: none but the owner's; connections are handed over on the listener's own thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "core/base/status.h"

namespace penstock {

class UnixListener {
 public:
  // Owns the descriptor from then on, which is non-blocking.
  using OnConnection = std::function<void(int descriptor)>;

  // Makes the folder if there is none. A socket that nobody listens at any more is replaced.
  // Errors: FAILED_PRECONDITION for a folder that others may enter, INVALID_ARGUMENT for a path
  // that is too long for a socket, ALREADY_EXISTS if another program listens there.
  static absl::StatusOr<std::unique_ptr<UnixListener>> Listen(const std::string& path,
                                                              OnConnection on_connection);
  ~UnixListener();  // closes and removes the socket
  UnixListener(const UnixListener&) = delete;
  UnixListener& operator=(const UnixListener&) = delete;

 private:
  UnixListener(std::string path, int socket, int wake, OnConnection on_connection);
  void Run();
  bool Accept();

  const std::string path_;
  const int socket_;
  const int wake_;  // eventfd: the end
  const OnConnection on_connection_;
  std::thread thread_;
};

}  // namespace penstock
