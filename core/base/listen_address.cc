#include "core/base/listen_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/numbers.h"

namespace penstock {
namespace {

// The system's error number, 0 if the address could be had.
int TryToBind(const addrinfo& address) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const int error = bind(fd, address.ai_addr, address.ai_addrlen) == 0 ? 0 : errno;
  close(fd);
  return error;
}

absl::Status Explain(const ListenAddress& address, const std::string& flag, int error) {
  const std::string where = address.ToString();
  switch (error) {
    case EADDRINUSE:
      return absl::AlreadyExistsError(absl::StrCat(
          where, " is in use by another program: choose another ", flag, " or stop it"));
    case EACCES:
      return absl::PermissionDeniedError(absl::StrCat(
          where, ": this user may not listen there: choose a ", flag, " port above 1023"));
    default:
      return absl::InvalidArgumentError(absl::StrCat("cannot listen on ", where, ": ",
                                                     strerror(error),
                                                     ": choose an address of this machine"));
  }
}

}  // namespace

std::string ListenAddress::ToString() const {
  const bool ipv6 = host.find(':') != std::string::npos;
  return ipv6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

bool ListenAddress::loopback() const {
  in_addr v4 = {};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6 = {};
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return host == "localhost";
}

bool ListenAddress::wildcard() const {
  in_addr v4 = {};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return v4.s_addr == INADDR_ANY;
  in6_addr v6 = {};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6);
}

absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& text) {
  ListenAddress address;
  const size_t colon = text.rfind(':');
  bool ok = colon != std::string::npos && colon > 0;
  if (ok) {
    address.host = text.substr(0, colon);
    const bool bracketed = address.host.front() == '[' && address.host.back() == ']';
    if (bracketed) address.host = address.host.substr(1, address.host.size() - 2);
    ok = !address.host.empty() &&
         (bracketed || address.host.find_first_of("[]:/") == std::string::npos) &&
         absl::SimpleAtoi(text.substr(colon + 1), &address.port) && address.port >= 0 &&
         address.port <= 65535;
  }
  if (!ok) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not HOST:PORT: write for example 127.0.0.1:50051, ",
                     "0.0.0.0:50051 or [::1]:50051; port 0 takes a free one"));
  }
  return address;
}

absl::Status CheckListenAddress(const ListenAddress& address, const std::string& flag) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const std::string port = absl::StrCat(address.port);
  if (const int error = getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found);
      error != 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot listen on ", address.ToString(), ": ",
                                                   gai_strerror(error),
                                                   ": choose a name or address of this machine"));
  }
  // One that can be had is enough (IPv6 may be off), but none may be another program's.
  int first_error = 0;
  bool possible = false;
  bool taken = false;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    const int error = TryToBind(*one);
    possible = possible || error == 0;
    taken = taken || error == EADDRINUSE;
    if (first_error == 0) first_error = error;
  }
  freeaddrinfo(found);
  if (taken) return Explain(address, flag, EADDRINUSE);
  if (!possible) return Explain(address, flag, first_error);
  return absl::OkStatus();
}

}  // namespace penstock
