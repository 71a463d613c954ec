#include "worker/transport/grpc_credentials.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "core/base/listen_address.h"

namespace penstock {
namespace {

bool IsUnix(const std::string& address) { return address.rfind("unix:", 0) == 0; }

struct TlsTexts {
  std::string cert;
  std::string key;
  std::string ca;
};

absl::StatusOr<std::string> ReadPem(const char* flag, const std::string& path) {
  if (path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " is missing: TLS needs --tls-cert, --tls-key and --tls-ca, all three"));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.is_open() || file.bad()) {
    return absl::NotFoundError(absl::StrCat(flag, ": ", path, " cannot be read: ", strerror(errno),
                                            ": see whether it is there and this user's to read"));
  }
  if (text.find("-----BEGIN ") == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": ", path, " is not a PEM file: it has no line -----BEGIN ..."));
  }
  return text;
}

absl::StatusOr<TlsTexts> Read(const TlsFiles& tls) {
  TlsTexts texts;
  PENSTOCK_ASSIGN_OR_RETURN(texts.cert, ReadPem("--tls-cert", tls.cert));
  PENSTOCK_ASSIGN_OR_RETURN(texts.key, ReadPem("--tls-key", tls.key));
  PENSTOCK_ASSIGN_OR_RETURN(texts.ca, ReadPem("--tls-ca", tls.ca));
  return texts;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const std::string& address, const TlsFiles& tls) {
  if (IsUnix(address)) return grpc::InsecureServerCredentials();
  PENSTOCK_ASSIGN_OR_RETURN(const ListenAddress listen, ParseListenAddress(address));
  if (tls.empty()) {
    if (listen.loopback()) return grpc::InsecureServerCredentials();
    return absl::FailedPreconditionError(
        absl::StrCat("other machines can reach ", address,
                     ", so it needs TLS: give --tls-cert, --tls-key and --tls-ca, or listen on "
                     "127.0.0.1:PORT or unix:/PATH"));
  }
  PENSTOCK_ASSIGN_OR_RETURN(const TlsTexts texts, Read(tls));
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = texts.ca;
  options.pem_key_cert_pairs.push_back({texts.key, texts.cert});
  return grpc::SslServerCredentials(options);
}

absl::Status CheckPeerAddress(const std::string& address, const TlsFiles& tls) {
  if (IsUnix(address) || !tls.empty()) return absl::OkStatus();
  PENSTOCK_ASSIGN_OR_RETURN(const ListenAddress peer, ParseListenAddress(address));
  if (peer.loopback()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(address,
                   " is another machine, which is reached by TLS only: give --tls-cert, "
                   "--tls-key and --tls-ca"));
}

absl::StatusOr<ChannelFactory> MakeChannelFactory(const TlsFiles& tls) {
  std::shared_ptr<grpc::ChannelCredentials> secure;
  if (!tls.empty()) {
    PENSTOCK_ASSIGN_OR_RETURN(const TlsTexts texts, Read(tls));
    secure = grpc::SslCredentials({texts.ca, texts.key, texts.cert});
  }
  return ChannelFactory(
      [secure](const std::string& address, const grpc::ChannelArguments& arguments) {
        // A stage's address comes from its worker by way of the front end: without TLS it may name
        // no other machine. A channel without credentials is one whose every call fails.
        std::shared_ptr<grpc::ChannelCredentials> credentials = IsUnix(address) ? nullptr : secure;
        if (credentials == nullptr && CheckPeerAddress(address, {}).ok()) {
          credentials = grpc::InsecureChannelCredentials();
        }
        return grpc::CreateCustomChannel(address, credentials, arguments);
      });
}

}  // namespace penstock
