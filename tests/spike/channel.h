// A line-wise conversation between the driver and one stage over a socket pair, which can carry a
// file descriptor along with a line. A line is at most 512 bytes.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace spike {

class Channel {
 public:
  explicit Channel(int fd) : fd_(fd) {}

  // A message each: sockets are SOCK_SEQPACKET. False: the other end is gone, or, with
  // MSG_DONTWAIT, has not read the last ones.
  bool Send(const std::string& line, int descriptor = -1, int flags = 0) const {
    iovec part = {const_cast<char*>(line.data()), line.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (descriptor >= 0) {
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
    }
    return sendmsg(fd_, &message, MSG_NOSIGNAL | flags) >= 0;
  }

  // The next line; "" when the other end is gone or `limit_ms` have passed (negative: no limit).
  std::string Receive(int limit_ms = -1, int* descriptor = nullptr) const {
    pollfd wait = {fd_, POLLIN, 0};
    if (poll(&wait, 1, limit_ms) <= 0) return "";
    char text[512];
    iovec part = {text, sizeof text};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t size = recvmsg(fd_, &message, 0);
    if (size <= 0) return "";
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (header != nullptr && descriptor != nullptr) {
      std::memcpy(descriptor, CMSG_DATA(header), sizeof(int));
    }
    return {text, static_cast<size_t>(size)};
  }

 private:
  int fd_;
};

}  // namespace spike
