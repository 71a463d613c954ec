#include "frontend/worker_dialer.h"

#include <set>
#include <utility>

#include "absl/strings/str_split.h"
#include "core/base/listen_address.h"
#include "frontend/worker_channel.h"
#include "frontend/worker_connection.h"

namespace penstock {

absl::StatusOr<std::vector<std::string>> ParseWorkerList(const std::string& text) {
  std::vector<std::string> addresses = absl::StrSplit(text, ',');
  std::set<std::string> seen;
  for (const std::string& address : addresses) {
    if (address.rfind("unix:/", 0) != 0) {
      PENSTOCK_ASSIGN_OR_RETURN(const ListenAddress parsed, ParseListenAddress(address));
      if (parsed.port == 0 || parsed.wildcard()) {
        return absl::InvalidArgumentError(
            absl::StrCat(address,
                         " is no address of a worker: write the host and the port of its "
                         "--listen, for example worker-0:50052"));
      }
    }
    if (!seen.insert(address).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(address, " is there twice: each stage needs a worker of its own"));
    }
  }
  return addresses;
}

absl::StatusOr<std::unique_ptr<WorkerDialer>> WorkerDialer::Make(const WorkerDialOptions& options) {
  for (const std::string& address : options.addresses) {
    PENSTOCK_RETURN_IF_ERROR(CheckPeerAddress(address, options.tls));
  }
  PENSTOCK_ASSIGN_OR_RETURN(ChannelFactory channels, MakeChannelFactory(options.tls));
  return std::unique_ptr<WorkerDialer>(new WorkerDialer(options, std::move(channels)));
}

std::unique_ptr<StageConnection> WorkerDialer::Connect(int32_t stage, EventCallback events) {
  const std::string& address = options_.addresses.at(static_cast<size_t>(stage));
  return std::make_unique<WorkerConnection>(
      [address, this] { return MakeWorkerChannel(address, channels_); },
      WorkerConnectionOptions{.name = absl::StrCat("stage ", stage, " at ", address),
                              .address = address,
                              .version = options_.version,
                              .connect_limit = options_.connect_limit,
                              .beat_period = options_.beat_period},
      std::move(events));
}

}  // namespace penstock
