// A peer of an HTTP server, as bad as a test wants it: raw bytes out, raw bytes in.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace penstock {

class HttpPeer {
 public:
  explicit HttpPeer(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  ~HttpPeer() { close(fd_); }
  HttpPeer(const HttpPeer&) = delete;
  HttpPeer& operator=(const HttpPeer&) = delete;

  // False once the server has closed.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(count));
    }
    return true;
  }
  void EndSending() { shutdown(fd_, SHUT_WR); }
  // Until the server closes.
  std::string Rest() {
    std::string all;
    char bytes[4096];
    for (ssize_t count; (count = recv(fd_, bytes, sizeof(bytes), 0)) > 0;) {
      all.append(bytes, static_cast<size_t>(count));
    }
    return all;
  }

 private:
  const int fd_;
};

// The whole answer to these bytes, head and body.
inline std::string HttpAnswer(int port, std::string_view request) {
  HttpPeer peer(port);
  peer.Send(request);
  return peer.Rest();
}

inline std::string HttpGet(int port, const std::string& path) {
  return HttpAnswer(port, "GET " + path + " HTTP/1.1\r\nHost: here\r\n\r\n");
}

inline std::string HttpBody(const std::string& answer) {
  const size_t end = answer.find("\r\n\r\n");
  return end == std::string::npos ? "" : answer.substr(end + 4);
}

inline int HttpStatus(const std::string& answer) {
  return answer.rfind("HTTP/1.1 ", 0) == 0 ? std::stoi(answer.substr(9)) : 0;
}

}  // namespace penstock
