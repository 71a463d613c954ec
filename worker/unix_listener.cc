#include "worker/unix_listener.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/base/log.h"

namespace penstock {
namespace {

absl::Status CheckFolder(const std::string& folder) {
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::FailedPreconditionError(
        absl::StrCat("the folder ", folder, " of the socket cannot be made: ", strerror(errno),
                     ": choose a --listen path in a folder of this user's"));
  }
  struct stat info = {};
  if (stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder, " is no folder: choose another --listen path"));
  }
  if (info.st_uid != geteuid() || (info.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("other users may enter ", folder,
                     ", where the socket is to be: make it this user's own with mode 0700 (chmod "
                     "700), or choose a --listen path in another folder"));
  }
  return absl::OkStatus();
}

bool IsAlive(const sockaddr_un& address) {
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool alive = probe >= 0 && connect(probe, reinterpret_cast<const sockaddr*>(&address),
                                           sizeof(address)) == 0;
  if (probe >= 0) close(probe);
  return alive;
}

}  // namespace

absl::StatusOr<std::unique_ptr<UnixListener>> UnixListener::Listen(const std::string& path,
                                                                   OnConnection on_connection) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path[0] != '/' || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("unix:", path, ": write the whole path of the socket, of at most ",
                     sizeof(address.sun_path) - 1, " bytes"));
  }
  memcpy(address.sun_path, path.c_str(), path.size());
  PENSTOCK_RETURN_IF_ERROR(CheckFolder(std::filesystem::path(path).parent_path().string()));
  if (IsAlive(address)) {
    return absl::AlreadyExistsError(absl::StrCat("another program listens at ", path,
                                                 ": choose another --listen path or stop it"));
  }
  struct stat info = {};
  if (lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) unlink(path.c_str());

  const int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  // The mode before the name: at no time can another user connect. (Linux takes the socket's mode.)
  if (descriptor < 0 || fchmod(descriptor, 0600) != 0 ||
      bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(descriptor, SOMAXCONN) != 0) {
    const int error = errno;
    if (descriptor >= 0) close(descriptor);
    return absl::FailedPreconditionError(
        absl::StrCat("cannot listen at ", path, ": ", strerror(error),
                     ": remove what is there, or choose another --listen path"));
  }
  return std::unique_ptr<UnixListener>(
      new UnixListener(path, descriptor, eventfd(0, EFD_CLOEXEC), std::move(on_connection)));
}

UnixListener::UnixListener(std::string path, int socket, int wake, OnConnection on_connection)
    : path_(std::move(path)),
      socket_(socket),
      wake_(wake),
      on_connection_(std::move(on_connection)),
      thread_([this] { Run(); }) {}

UnixListener::~UnixListener() {
  eventfd_write(wake_, 1);
  thread_.join();
  unlink(path_.c_str());
  close(socket_);
  close(wake_);
}

void UnixListener::Run() {
  while (true) {
    pollfd fds[] = {{socket_, POLLIN, 0}, {wake_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) continue;
    if (fds[1].revents != 0) return;
    // Without descriptors the connection waits in the queue, and so does this.
    if (!Accept()) poll(fds + 1, 1, 100);
  }
}

// False if it could not be had for now.
bool UnixListener::Accept() {
  const int connection = accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (connection < 0) return errno != EMFILE && errno != ENFILE && errno != ENOMEM;
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
      (peer.uid == geteuid() || peer.uid == 0)) {
    on_connection_(connection);
    return true;
  }
  close(connection);
  LogWarning(absl::StrCat("refused a connection of user ", peer.uid, " (process ", peer.pid,
                          "): only the worker's own user and root may connect"));
  return true;
}

}  // namespace penstock
