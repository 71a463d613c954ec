// A stage's door over gRPC: a server of its own with the transfer service, and the transport.
#pragma once

#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "tests/support/transport_ends.h"
#include "worker/transport/grpc_transport.h"

namespace penstock::testing {

inline std::shared_ptr<grpc::Channel> InsecureChannel(const std::string& address,
                                                      const grpc::ChannelArguments& arguments) {
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// A free address on a unix socket; of this process, and short, since the kernel takes 107 bytes.
inline std::string UnixAddress() {
  static std::atomic<int> last{0};
  return absl::StrCat("unix:/tmp/penstock-test-", getpid(), "-", ++last);
}
inline constexpr char kAnyPort[] = "127.0.0.1:0";

class GrpcEndpoint final : public Endpoint {
 public:
  GrpcEndpoint(const std::string& address, const GrpcTransportOptions& options)
      : service_(options.transport) {
    // Once for ever: where the last object of gRPC goes, its library may wait 10 s for a poller.
    [[maybe_unused]] static const bool initialized = (grpc_init(), true);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_.service());
    ConfigureTransferServer(options, builder);
    server_ = builder.BuildAndStart();
    PENSTOCK_CHECK(server_ != nullptr);
    transport_ = MakeGrpcTransport(service_,
                                   address == kAnyPort ? absl::StrCat("127.0.0.1:", port) : address,
                                   InsecureChannel, options);
  }
  ~GrpcEndpoint() override {
    transport_.reset();
    service_.Shutdown();
    server_->Shutdown(std::chrono::system_clock::now());  // calls end now
  }
  Transport& transport() override { return *transport_; }

 private:
  GrpcTransferService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Transport> transport_;
};

inline TransportKind UnixKind() {
  return {"Unix", [] {
            return [](const TransportOptions& options) {
              return std::make_unique<GrpcEndpoint>(UnixAddress(),
                                                    GrpcTransportOptions{.transport = options});
            };
          }};
}
inline TransportKind TcpKind() {
  return {"Tcp", [] {
            return [](const TransportOptions& options) {
              return std::make_unique<GrpcEndpoint>(kAnyPort,
                                                    GrpcTransportOptions{.transport = options});
            };
          }};
}
// Chunks that no transfer is a multiple of.
inline TransportKind SmallChunksKind() {
  return {"SmallChunks", [] {
            return [](const TransportOptions& options) {
              return std::make_unique<GrpcEndpoint>(
                  UnixAddress(), GrpcTransportOptions{.transport = options, .chunk_bytes = 65521});
            };
          }};
}

}  // namespace penstock::testing
