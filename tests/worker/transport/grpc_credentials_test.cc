#include "worker/transport/grpc_credentials.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/certificates.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

TEST(GrpcCredentialsTest, PlainTextStaysInTheMachine) {
  for (const char* address : {"unix:/tmp/x", "127.0.0.1:1", "[::1]:1", "localhost:1"}) {
    EXPECT_TRUE(IsOk(MakeServerCredentials(address, {}))) << address;
    EXPECT_TRUE(IsOk(CheckPeerAddress(address, {}))) << address;
  }
  for (const char* address : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "worker-0:1"}) {
    EXPECT_TRUE(Fails(MakeServerCredentials(address, {}), kPrecondition,
                      {address, "--tls-cert", "--tls-key", "--tls-ca"}));
    EXPECT_TRUE(Fails(CheckPeerAddress(address, {}), kPrecondition, {address, "--tls-cert"}));
  }
}

TEST(GrpcCredentialsTest, NamesTheFileThatIsWrong) {
  const Certificates authority;
  const TlsFiles good = authority.Make("worker");
  EXPECT_TRUE(IsOk(MakeServerCredentials("0.0.0.0:1", good)));
  EXPECT_TRUE(IsOk(CheckPeerAddress("10.0.0.1:1", good)));
  EXPECT_TRUE(IsOk(MakeChannelFactory(good)));
  const std::string text = testing::TempDir() + "/text";
  std::ofstream(text) << "no certificate\n";
  struct Case {
    const char* flag;
    std::string TlsFiles::*file;
  };
  for (const Case& each : {Case{"--tls-cert", &TlsFiles::cert}, Case{"--tls-key", &TlsFiles::key},
                           Case{"--tls-ca", &TlsFiles::ca}}) {
    TlsFiles bad = good;
    bad.*each.file = "";
    EXPECT_TRUE(Fails(MakeServerCredentials("0.0.0.0:1", bad), absl::StatusCode::kInvalidArgument,
                      {each.flag, "all three"}));
    bad.*each.file = "/no/such/file";
    EXPECT_TRUE(
        Fails(MakeChannelFactory(bad), absl::StatusCode::kNotFound, {each.flag, "/no/such/file"}));
    bad.*each.file = text;
    EXPECT_TRUE(Fails(MakeChannelFactory(bad), absl::StatusCode::kInvalidArgument,
                      {each.flag, "not a PEM file"}));
  }
}

// A stage's address is what another worker said: without TLS it must not lead elsewhere.
TEST(GrpcCredentialsTest, AChannelWithoutTlsGoesNowhereElse) {
  const absl::StatusOr<ChannelFactory> channels = MakeChannelFactory({});
  ASSERT_TRUE(IsOk(channels));
  const auto stub =
      worker::v1::Worker::NewStub((*channels)("10.255.255.1:1", grpc::ChannelArguments()));
  grpc::ClientContext context;
  const auto stream = stub->Control(&context);
  worker::v1::ControlResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace penstock
