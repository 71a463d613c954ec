// HOST:PORT of --listen and --metrics-listen, and why a server could not have it.
#pragma once

#include <string>

#include "core/base/status.h"

namespace penstock {

struct ListenAddress {
  std::string host;  // without the brackets of an IPv6 address
  int port = 0;      // 0: any free one

  // As gRPC takes it and people read it.
  std::string ToString() const;
  // Only programs of this machine can reach it: 127.x.y.z, ::1, localhost.
  bool loopback() const;
  // All addresses of this machine: nothing that others could connect to by this name.
  bool wildcard() const;
};

// Errors: INVALID_ARGUMENT that says what HOST:PORT looks like.
absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& text);

// Tries every address that the host stands for, and lets go of it again. gRPC is content with one
// of them and does not say why it got none. `flag` is what an error tells to change.
// Errors: ALREADY_EXISTS if another program has the port, INVALID_ARGUMENT if the host cannot be
// found or is not this machine's, PERMISSION_DENIED.
absl::Status CheckListenAddress(const ListenAddress& address, const std::string& flag = "--listen");

}  // namespace penstock
