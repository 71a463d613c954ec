#include "frontend/http_server.h"

#include <arpa/inet.h>
#include <civetweb.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "core/base/check.h"
#include "core/base/log.h"

namespace penstock {
namespace {

// civetweb takes no name that stands for several addresses.
absl::StatusOr<std::string> NumericHost(const HttpOptions& options) {
  addrinfo hints = {};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(options.listen.host.c_str(), nullptr, &hints, &found) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", options.listen.ToString(),
                     ": it has no IPv4 address, and metrics are served over IPv4 only: choose "
                     "another ",
                     options.flag));
  }
  sockaddr_in address;
  PENSTOCK_CHECK_EQ(found->ai_addrlen, sizeof(address));
  std::copy_n(reinterpret_cast<const char*>(found->ai_addr), sizeof(address),
              reinterpret_cast<char*>(&address));
  freeaddrinfo(found);
  std::array<char, INET_ADDRSTRLEN> text;
  PENSTOCK_CHECK(inet_ntop(AF_INET, &address.sin_addr, text.data(), text.size()) != nullptr);
  return std::string(text.data());
}

// A connection that is given up at once.
void Knock(const std::string& host, int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) return;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  (void)connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  close(fd);
}

// What peers get wrong is of no interest to the log of the server.
int OnMessage(const mg_connection* /*connection*/, const char* message) {
  Log(LogLevel::kDebug, absl::StrCat("http: ", message));
  return 1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpOptions& options,
                                                              std::map<std::string, Page> pages) {
  std::unique_ptr<HttpServer> server(new HttpServer(std::move(pages)));
  PENSTOCK_RETURN_IF_ERROR(server->Listen(options));
  return server;
}

absl::Status HttpServer::Listen(const HttpOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(numeric_host_, NumericHost(options));
  PENSTOCK_RETURN_IF_ERROR(CheckListenAddress(options.listen, options.flag));
  // Counts its users by itself, and loads nothing: there is no TLS here.
  mg_init_library(MG_FEATURES_DEFAULT);
  const std::string port = absl::StrCat(numeric_host_, ":", options.listen.port);
  const std::string threads = absl::StrCat(options.threads);
  const std::string bytes = absl::StrCat(options.max_request_bytes);
  const std::string patience = absl::StrCat(absl::ToInt64Milliseconds(options.patience));
  const char* settings[] = {"listening_ports",
                            port.c_str(),
                            "num_threads",
                            threads.c_str(),
                            "max_request_size",
                            bytes.c_str(),
                            "request_timeout_ms",
                            patience.c_str(),
                            "enable_keep_alive",
                            "no",
                            nullptr};
  mg_callbacks callbacks = {};
  callbacks.begin_request = OnRequest;
  callbacks.log_message = OnMessage;
  context_ = mg_start(&callbacks, this, settings);
  if (context_ == nullptr) {
    mg_exit_library();
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen.ToString(),
                                               ": choose another ", options.flag));
  }
  mg_server_port taken = {};
  PENSTOCK_CHECK_EQ(mg_get_server_ports(context_, 1, &taken), 1);
  address_ = {options.listen.host, taken.port};
  return absl::OkStatus();
}

HttpServer::~HttpServer() {
  if (context_ == nullptr) return;
  // Its listening thread looks up once in two seconds, or when somebody knocks.
  std::atomic<bool> stopped = false;
  std::thread stopping([&] {
    mg_stop(context_);
    stopped = true;
  });
  while (!stopped) {
    Knock(numeric_host_, address_.port);
    absl::SleepFor(absl::Milliseconds(2));
  }
  stopping.join();
  mg_exit_library();
}

HttpResponse HttpServer::Answer(const std::string& method, const std::string& path) const {
  if (method != "GET" && method != "HEAD") {
    return {405, "text/plain; charset=utf-8", "GET and HEAD are all that is answered here\n"};
  }
  const auto page = pages_.find(path);
  if (page != pages_.end()) return page->second();
  std::string known = "no such page. There are:";
  for (const auto& [name, unused] : pages_) absl::StrAppend(&known, " ", name);
  return {404, "text/plain; charset=utf-8", known + "\n"};
}

int HttpServer::OnRequest(mg_connection* connection) {
  const mg_request_info* const request = mg_get_request_info(connection);
  const auto* const server = static_cast<const HttpServer*>(request->user_data);
  // A body is not read: the connection ends with the answer.
  mg_disable_connection_keep_alive(connection);
  const std::string method = request->request_method;
  const HttpResponse response =
      server->Answer(method, request->local_uri == nullptr ? "" : request->local_uri);
  std::string bytes = absl::StrCat(
      "HTTP/1.1 ", response.status, " ", mg_get_response_code_text(connection, response.status),
      "\r\nContent-Type: ", response.content_type, "\r\nContent-Length: ", response.body.size(),
      "\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n",
      response.status == 405 ? "Allow: GET, HEAD\r\n" : "", "\r\n");
  if (method != "HEAD") bytes += response.body;
  mg_write(connection, bytes.data(), bytes.size());
  return response.status;
}

}  // namespace penstock
