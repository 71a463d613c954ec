// HttpServer: a few pages over plain HTTP/1.1, for Prometheus, probes and browsers. GET and HEAD
// only; one request a connection; no files. What a peer can use up is bounded: threads, connections
// that wait for one, bytes of a request, time without a sign of life.
// IPv4 only: Debian's civetweb is built without the other.
// Thread rule: any thread. Pages are made on the server's threads, several at once.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "core/base/listen_address.h"
#include "core/base/status.h"

struct mg_connection;
struct mg_context;

namespace penstock {

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

struct HttpOptions {
  ListenAddress listen;
  std::string flag = "--metrics-listen";  // what an error tells to change
  int threads = 8;                        // requests answered at once; 20 more connections wait
  int64_t max_request_bytes = 8192;       // of a request's line and headers
  absl::Duration patience = absl::Seconds(5);  // for a request to come, for an answer to go
};

class HttpServer {
 public:
  // Must not block for long.
  using Page = std::function<HttpResponse()>;

  // Listens. `pages` by their path; what comes after a "?" is not looked at.
  // Errors: those of CheckListenAddress; INVALID_ARGUMENT for a host without an IPv4 address.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpOptions& options,
                                                           std::map<std::string, Page> pages);
  ~HttpServer();  // waits for the requests that are answered
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // With the port that was taken.
  const ListenAddress& address() const { return address_; }

 private:
  explicit HttpServer(std::map<std::string, Page> pages) : pages_(std::move(pages)) {}
  absl::Status Listen(const HttpOptions& options);
  HttpResponse Answer(const std::string& method, const std::string& path) const;
  static int OnRequest(mg_connection* connection);

  const std::map<std::string, Page> pages_;
  ListenAddress address_;
  std::string numeric_host_;
  mg_context* context_ = nullptr;
};

}  // namespace penstock
