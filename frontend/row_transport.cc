#include "frontend/row_transport.h"

#include <algorithm>

#include "core/base/checked_size.h"
#include "core/base/log.h"
#include "worker/backends.h"
#include "worker/transport/nccl_transport.h"

namespace penstock {
namespace {

// Why there can be no peer memory.
absl::Status CheckPeer(const RowTransportOptions& options) {
  if (options.are_elsewhere) {
    return absl::FailedPreconditionError(
        "rows go by peer memory only between stages that this program starts: use --stages in "
        "place of --workers, or --transport nccl or grpc");
  }
  for (size_t i = 1; i < options.devices.size(); ++i) {
    PENSTOCK_RETURN_IF_ERROR(CheckPeerMemory(options.devices[i - 1], options.devices[i]));
  }
  return absl::OkStatus();
}

absl::StatusOr<RowTransport> ByPeerMemory(const RowTransportOptions& options) {
  // One of the largest transfers can be written while another is read.
  constexpr int64_t kUnit = int64_t{2} << 20;
  const std::optional<int64_t> bytes =
      CheckedProduct({CheckedSize(2), CheckedSize(options.max_step_tokens),
                      CheckedSize(options.hidden_size), CheckedSize(4)})
          .RoundUp(kUnit)
          .value();
  if (!bytes.has_value()) return absl::InvalidArgumentError("--max-step-tokens is too large");
  LogInfo(absl::StrCat("rows go from device to device, by mailboxes of ", *bytes >> 20, " MiB"));
  return RowTransport{*bytes, false};
}

RowTransport ByNccl() {
  LogInfo("rows go from device to device by NCCL, which takes memory of its own there");
  return RowTransport{0, true};
}

// Between GPUs at least at one end of each hop.
absl::StatusOr<RowTransport> ChooseForGpus(const RowTransportOptions& options) {
  const absl::Status peer = CheckPeer(options);
  if (peer.ok()) return ByPeerMemory(options);
  // Stages elsewhere have each a machine's GPUs for themselves, as far as this program knows.
  std::vector<std::string> devices = options.devices;
  if (options.are_elsewhere) devices.assign(1, *std::min_element(devices.begin(), devices.end()));
  const absl::Status nccl = CheckNcclDevices(devices);
  if (nccl.ok()) return ByNccl();
  LogInfo(absl::StrCat("rows go from stage to stage by way of the host: ", Message(peer), "; ",
                       Message(nccl)));
  return RowTransport{};
}

}  // namespace

absl::StatusOr<RowTransport> ChooseRowTransport(const RowTransportOptions& options) {
  if (options.transport == "grpc" || options.devices.size() < 2) return RowTransport{};
  if (options.transport == "peer") {
    PENSTOCK_RETURN_IF_ERROR(Annotate(CheckPeer(options), "--transport peer"));
    return ByPeerMemory(options);
  }
  if (options.transport == "nccl") {
    // What workers elsewhere have they say themselves.
    if (!options.are_elsewhere) {
      PENSTOCK_RETURN_IF_ERROR(Annotate(CheckNcclDevices(options.devices), "--transport nccl"));
    }
    return ByNccl();
  }
  if (options.transport != "auto") {
    return absl::InvalidArgumentError(
        absl::StrCat("--transport ", options.transport, " is none of auto, grpc, nccl and peer"));
  }
  const bool has_gpu = std::any_of(options.devices.begin(), options.devices.end(),
                                   [](const std::string& device) { return device != "cpu"; });
  return has_gpu ? ChooseForGpus(options) : RowTransport{};
}

}  // namespace penstock
