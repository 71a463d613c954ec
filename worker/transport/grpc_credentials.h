// Who may talk to whom: plain text inside a machine, mutual TLS between machines. Both ends show a
// certificate of one authority, and refuse a peer without.
// Pure functions, thread-safe.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "core/base/status.h"
#include "worker/transport/grpc_transport.h"

namespace penstock {

// Paths of PEM files.
struct TlsFiles {
  std::string cert;  // of this end, and what leads to the authority
  std::string key;   // its private key
  std::string ca;    // certificates of the authority that the other end's must come from

  bool empty() const { return cert.empty() && key.empty() && ca.empty(); }
};

// Of a server that listens at "unix:/path" or HOST:PORT. Errors: FAILED_PRECONDITION for an address
// that other machines can reach without TLS; INVALID_ARGUMENT for TLS files that are not all named,
// NOT_FOUND for those that cannot be read.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const std::string& address, const TlsFiles& tls);

// OK if a client may connect to this address: other machines by TLS only.
absl::Status CheckPeerAddress(const std::string& address, const TlsFiles& tls);

// The channels of a client: TLS where there are files, but for Unix sockets. Errors: of the files.
absl::StatusOr<ChannelFactory> MakeChannelFactory(const TlsFiles& tls);

}  // namespace penstock
