#include "worker/transport/peer_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string_view>

#include "core/base/check.h"

namespace penstock {
namespace {

// Of an abstract socket the name begins behind a zero.
sockaddr_un AddressOf(std::string_view name, socklen_t* bytes) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const size_t size = std::min(name.size(), sizeof(address.sun_path));
  std::copy_n(name.data(), size, address.sun_path);
  if (size > 0) address.sun_path[0] = '\0';
  *bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + size);
  return address;
}

absl::Status CheckUser(int socket) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
      (peer.uid == geteuid() || peer.uid == 0)) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(
      absl::StrCat("the other end belongs to user ", peer.uid, " (process ", peer.pid,
                   "): only stages of one user, or root's, exchange rows"));
}

absl::Status Gone() { return absl::UnavailableError("it has ended, or has closed its end"); }

}  // namespace

absl::StatusOr<PeerListener> ListenForPeers() {
  PeerListener listener;
  listener.socket =
      OwnDescriptor(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  socklen_t size = sizeof(address);
  const int fd = listener.socket.get();
  // Bound to no name: the kernel finds a free one.
  if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)) != 0 ||
      listen(fd, SOMAXCONN) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot listen for other stages: ", strerror(errno), ": raise ulimit -n"));
  }
  listener.name.assign(address.sun_path, size - offsetof(sockaddr_un, sun_path));
  listener.name[0] = '@';
  return listener;
}

absl::StatusOr<OwnDescriptor> AcceptPeer(int listener) {
  OwnDescriptor connection(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (connection.empty()) return absl::UnavailableError(strerror(errno));
  PENSTOCK_RETURN_IF_ERROR(CheckUser(connection.get()));
  return connection;
}

absl::StatusOr<OwnDescriptor> ConnectToPeer(const std::string& name) {
  OwnDescriptor connection(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  socklen_t size = 0;
  const sockaddr_un address = AddressOf(name, &size);
  if (connection.empty() ||
      connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0) {
    return absl::UnavailableError(
        absl::StrCat("no stage takes rows there (", strerror(errno),
                     "): it has ended, or is in a container of its own: start all stages with one "
                     "penstock serve, or use --transport grpc"));
  }
  PENSTOCK_RETURN_IF_ERROR(CheckUser(connection.get()));
  return connection;
}

absl::Status SendToPeer(int socket, const void* message, size_t bytes, int descriptor) {
  iovec part = {const_cast<void*>(message), bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (descriptor >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &descriptor, sizeof(int));
  }
  while (sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno == EINTR) continue;
    // The window keeps the messages of a lane far below what a socket holds.
    if (errno == EAGAIN) return absl::UnavailableError("it does not read what it is told");
    return Gone();
  }
  return absl::OkStatus();
}

absl::Status ReceiveFromPeer(int socket, const Deadline& deadline, void* message, size_t bytes,
                             OwnDescriptor* descriptor) {
  while (true) {
    // In pieces of a minute at most: more than an int's milliseconds may be left.
    const absl::Duration left = std::min(deadline.left(), absl::Minutes(1));
    pollfd wait = {socket, POLLIN, 0};
    const int ready =
        poll(&wait, 1,
             static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)))));
    if (ready == 0 && deadline.left() == absl::ZeroDuration()) {
      return absl::DeadlineExceededError(
          absl::StrCat("it has said nothing for ", absl::FormatDuration(deadline.limit())));
    }
    if (ready <= 0) continue;
    iovec part = {message, bytes};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    const ssize_t size = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    // An end that goes without having read all resets the connection; what it had sent before is
    // still to be read, and behind that is the end.
    if (size < 0 && (errno == EINTR || errno == EAGAIN || errno == ECONNRESET)) continue;
    if (size <= 0) return Gone();
    OwnDescriptor came;
    const cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    if (rights != nullptr && rights->cmsg_type == SCM_RIGHTS) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(rights), sizeof(int));
      came = OwnDescriptor(number);
    }
    if (static_cast<size_t>(size) != bytes || (header.msg_flags & MSG_TRUNC) != 0) {
      return absl::InternalError(
          "it speaks otherwise than this release: run one release everywhere");
    }
    if (descriptor != nullptr) *descriptor = std::move(came);
    return absl::OkStatus();
  }
}

void EndPeerSocket(int socket) { shutdown(socket, SHUT_RDWR); }

PeerAnswer Refusal(const absl::Status& why) {
  PENSTOCK_CHECK(!why.ok());
  PeerAnswer answer;
  answer.code = static_cast<uint32_t>(why.raw_code());
  const absl::string_view text = why.message().substr(0, PeerAnswer::kMaxText);
  std::copy(text.begin(), text.end(), answer.text);
  answer.text_bytes = static_cast<uint32_t>(text.size());
  return answer;
}

absl::Status RefusalOf(const PeerAnswer& answer) {
  if (answer.code == 0) return absl::OkStatus();
  const bool known = answer.code <= static_cast<uint32_t>(absl::StatusCode::kUnauthenticated);
  return {known ? static_cast<absl::StatusCode>(answer.code) : absl::StatusCode::kInternal,
          absl::string_view(answer.text, std::min(answer.text_bytes, PeerAnswer::kMaxText))};
}

}  // namespace penstock
