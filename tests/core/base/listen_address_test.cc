#include "core/base/listen_address.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

TEST(ListenAddressTest, ReadsHostAndPort) {
  for (const std::string text : {"127.0.0.1:50051", "0.0.0.0:0", "localhost:65535", "[::1]:80"}) {
    const absl::StatusOr<ListenAddress> address = ParseListenAddress(text);
    ASSERT_TRUE(IsOk(address)) << text;
    EXPECT_EQ(address->ToString(), text);
  }
  EXPECT_EQ(ParseListenAddress("[::1]:80")->host, "::1");
  EXPECT_EQ(ParseListenAddress("[::1]:80")->port, 80);
}

TEST(ListenAddressTest, SaysWhatAnAddressLooksLike) {
  for (const std::string text :
       {"", "localhost", ":50051", "localhost:", "localhost:x", "localhost:65536", "localhost:-1",
        "::1:80", "[]:80", "[:80", "unix:/tmp/socket", "http://localhost:80"}) {
    EXPECT_TRUE(Fails(ParseListenAddress(text), absl::StatusCode::kInvalidArgument,
                      {"HOST:PORT", "127.0.0.1:50051"}))
        << text;
  }
}

TEST(ListenAddressTest, KnowsWhoCanReachIt) {
  for (const char* host : {"127.0.0.1", "127.1.2.3", "localhost", "::1"}) {
    EXPECT_TRUE((ListenAddress{host, 1}).loopback()) << host;
    EXPECT_FALSE((ListenAddress{host, 1}).wildcard()) << host;
  }
  for (const char* host : {"0.0.0.0", "::"}) {
    EXPECT_FALSE((ListenAddress{host, 1}).loopback()) << host;
    EXPECT_TRUE((ListenAddress{host, 1}).wildcard()) << host;
  }
  // Names that only look like it; DNS may say anything.
  for (const char* host :
       {"127.evil.example", "localhost.example", "10.0.0.1", "worker-0", "::2"}) {
    EXPECT_FALSE((ListenAddress{host, 1}).loopback()) << host;
    EXPECT_FALSE((ListenAddress{host, 1}).wildcard()) << host;
  }
}

TEST(ListenAddressTest, ChecksThatTheAddressIsThisMachines) {
  EXPECT_TRUE(IsOk(CheckListenAddress({"127.0.0.1", 0})));
  EXPECT_TRUE(IsOk(CheckListenAddress({"0.0.0.0", 0})));
  EXPECT_TRUE(Fails(CheckListenAddress({"192.0.2.1", 0}), absl::StatusCode::kInvalidArgument,
                    {"192.0.2.1:0", "address of this machine"}));
  EXPECT_TRUE(Fails(CheckListenAddress({"no such host", 0}), absl::StatusCode::kInvalidArgument,
                    {"no such host:0"}));
}

}  // namespace
}  // namespace penstock
