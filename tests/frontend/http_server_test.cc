#include "frontend/http_server.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/support/http_client.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

class HttpServerTest : public testing::Test {
 protected:
  void Start() { Start(8, absl::Seconds(5)); }
  void Start(int threads, absl::Duration patience) {
    HttpOptions options;
    options.listen.host = "127.0.0.1";
    options.threads = threads;
    options.patience = patience;
    std::map<std::string, HttpServer::Page> pages;
    pages["/"] = [] { return HttpResponse{200, "text/html", "home"}; };
    pages["/not-ready"] = [] { return HttpResponse{503, "text/plain", "loading\n"}; };
    pages["/count"] = [this] {
      ++count_;
      return HttpResponse{200, "text/plain", "counted"};
    };
    absl::StatusOr<std::unique_ptr<HttpServer>> server =
        HttpServer::Start(options, std::move(pages));
    ASSERT_TRUE(IsOk(server));
    server_ = *std::move(server);
  }
  int port() const { return server_->address().port; }
  // After whatever has been done to it.
  void ExpectAnswers() { EXPECT_EQ(HttpBody(HttpGet(port(), "/")), "home"); }

  std::atomic<int> count_ = 0;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersGetWithThePage) {
  Start();
  const std::string answer = HttpGet(port(), "/");
  EXPECT_EQ(HttpStatus(answer), 200);
  EXPECT_EQ(HttpBody(answer), "home");
  EXPECT_NE(answer.find("\r\nContent-Type: text/html\r\n"), std::string::npos);
  EXPECT_NE(answer.find("\r\nContent-Length: 4\r\n"), std::string::npos);
  EXPECT_EQ(HttpBody(HttpGet(port(), "/?a=b")), "home");
  const std::string not_ready = HttpGet(port(), "/not-ready");
  EXPECT_EQ(HttpStatus(not_ready), 503);
  EXPECT_EQ(HttpBody(not_ready), "loading\n");
}

TEST_F(HttpServerTest, AnswersHeadWithoutTheBody) {
  Start();
  const std::string answer = HttpAnswer(port(), "HEAD / HTTP/1.1\r\nHost: here\r\n\r\n");
  EXPECT_EQ(HttpStatus(answer), 200);
  EXPECT_EQ(HttpBody(answer), "");
  EXPECT_NE(answer.find("\r\nContent-Length: 4\r\n"), std::string::npos);
}

TEST_F(HttpServerTest, RefusesOtherMethodsAndPaths) {
  Start();
  for (const std::string method : {"POST", "PUT", "DELETE", "OPTIONS", "PATCH"}) {
    const std::string answer =
        HttpAnswer(port(), method + " /count HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n");
    EXPECT_EQ(HttpStatus(answer), 405) << method;
    EXPECT_NE(answer.find("\r\nAllow: GET, HEAD\r\n"), std::string::npos) << method;
  }
  EXPECT_EQ(count_, 0);
  for (const std::string path :
       {"/nothing", "/count/", "/count/more", "/%2e%2e/etc/passwd", "/../etc/passwd"}) {
    const std::string answer = HttpGet(port(), path);
    EXPECT_EQ(HttpStatus(answer), 404) << path << answer;
  }
  EXPECT_EQ(count_, 0);
  EXPECT_NE(HttpGet(port(), "/nothing").find("/not-ready"), std::string::npos);
}

TEST_F(HttpServerTest, WhatIsNoRequestDoesNoHarm) {
  Start();
  const std::string long_header = "GET /count HTTP/1.1\r\nHost: here\r\nX: ";
  for (const std::string& bytes :
       {std::string("\r\n\r\n"), std::string("GET\r\n\r\n"), std::string("GET /count\r\n\r\n"),
        std::string("\0\xff\xfe\r\n\r\n", 7), std::string("GET /count HTTP/9.9\r\n\r\n"),
        std::string("GET /count HTTP/1.1\r\nNo colon\r\n\r\n"),
        std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 15),
        std::string(100'000, 'A'), "GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\n\r\n",
        long_header + std::string(100'000, 'x') + "\r\n\r\n"}) {
    HttpPeer peer(port());
    peer.Send(bytes);
    peer.EndSending();
    const std::string answer = peer.Rest();
    EXPECT_NE(HttpStatus(answer), 200) << bytes.substr(0, 40);
    ExpectAnswers();
  }
  EXPECT_EQ(count_, 0);
}

TEST_F(HttpServerTest, ABodyIsNotWaitedFor) {
  Start();
  // Of a gigabyte that never comes.
  EXPECT_EQ(HttpBody(HttpAnswer(
                port(), "GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000000\r\n\r\nabc")),
            "home");
}

TEST_F(HttpServerTest, PeersThatSayNothingKeepNobodyElseWaiting) {
  Start(4, absl::Hours(1));  // so that it is not the time limit that helps
  {
    std::vector<std::unique_ptr<HttpPeer>> slow;
    for (int i = 0; i < 3; ++i) {
      slow.push_back(std::make_unique<HttpPeer>(port()));
      ASSERT_TRUE(slow.back()->Send("GET /count HTTP/1.1\r\nHo"));
    }
    for (int i = 0; i < 20; ++i) ExpectAnswers();
    EXPECT_EQ(count_, 0);
    // They were not forgotten.
    ASSERT_TRUE(slow.back()->Send("st: here\r\n\r\n"));
    EXPECT_EQ(HttpBody(slow.back()->Rest()), "counted");
  }
}

TEST_F(HttpServerTest, PeersThatTakeAllThreadsAreSentAway) {
  Start(2, absl::Milliseconds(50));
  std::vector<std::unique_ptr<HttpPeer>> slow;
  for (int i = 0; i < 6; ++i) {
    slow.push_back(std::make_unique<HttpPeer>(port()));
    slow.back()->Send("GET /count HTTP/1.1\r\nHo");
  }
  ExpectAnswers();
  for (const auto& peer : slow) EXPECT_NE(HttpStatus(peer->Rest()), 200);
  EXPECT_EQ(count_, 0);
}

TEST_F(HttpServerTest, ManyAtOnce) {
  Start();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] {
      for (int j = 0; j < 50; ++j) EXPECT_EQ(HttpBody(HttpGet(port(), "/count")), "counted");
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count_, 200);
}

TEST_F(HttpServerTest, APortInUseIsAnError) {
  Start();
  HttpOptions options;
  options.listen = {"127.0.0.1", port()};
  EXPECT_TRUE(Fails(HttpServer::Start(options, {}), absl::StatusCode::kAlreadyExists,
                    {"in use by another program", "--metrics-listen"}));
}

TEST_F(HttpServerTest, ListensOnNamesAndSaysWhatItCannot) {
  HttpOptions options;
  options.listen = {"localhost", 0};
  absl::StatusOr<std::unique_ptr<HttpServer>> server = HttpServer::Start(options, {});
  ASSERT_TRUE(IsOk(server));
  EXPECT_EQ((*server)->address().host, "localhost");
  EXPECT_EQ(HttpStatus(HttpGet((*server)->address().port, "/")), 404);
  options.listen = {"::1", 0};
  EXPECT_TRUE(Fails(HttpServer::Start(options, {}), absl::StatusCode::kInvalidArgument,
                    {"[::1]:0", "IPv4", "--metrics-listen"}));
  options.listen = {"192.0.2.1", 0};
  EXPECT_TRUE(Fails(HttpServer::Start(options, {}), absl::StatusCode::kInvalidArgument,
                    {"192.0.2.1:0", "address of this machine"}));
}

}  // namespace
}  // namespace penstock
