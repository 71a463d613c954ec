#include "frontend/row_transport.h"

#include <algorithm>

#include "core/base/checked_size.h"
#include "core/base/log.h"
#include "worker/backends.h"

namespace penstock {
namespace {

// Why rows cannot go from device to device.
absl::Status CheckStages(const RowTransportOptions& options) {
  if (options.are_elsewhere) {
    return absl::FailedPreconditionError(
        "rows go from device to device only between stages that this program starts: use --stages "
        "in place of --workers, or --transport grpc");
  }
  for (size_t i = 1; i < options.devices.size(); ++i) {
    PENSTOCK_RETURN_IF_ERROR(CheckPeerMemory(options.devices[i - 1], options.devices[i]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> ChooseMailbox(const RowTransportOptions& options) {
  if (options.transport == "grpc" || options.devices.size() < 2) return 0;
  const bool is_auto = options.transport == "auto";
  if (!is_auto && options.transport != "peer") {
    return absl::InvalidArgumentError(
        absl::StrCat("--transport ", options.transport, " is none of auto, grpc and peer"));
  }
  const bool has_gpu = std::any_of(options.devices.begin(), options.devices.end(),
                                   [](const std::string& device) { return device != "cpu"; });
  if (is_auto && !has_gpu) return 0;
  if (const absl::Status can = CheckStages(options); !can.ok()) {
    if (!is_auto) return Annotate(can, "--transport peer");
    LogInfo(absl::StrCat("rows go from stage to stage by way of the host: ", Message(can)));
    return 0;
  }
  // One of the largest transfers can be written while another is read.
  constexpr int64_t kUnit = int64_t{2} << 20;
  const std::optional<int64_t> bytes =
      CheckedProduct({CheckedSize(2), CheckedSize(options.max_step_tokens),
                      CheckedSize(options.hidden_size), CheckedSize(4)})
          .RoundUp(kUnit)
          .value();
  if (!bytes.has_value()) return absl::InvalidArgumentError("--max-step-tokens is too large");
  LogInfo(absl::StrCat("rows go from device to device, by mailboxes of ", *bytes >> 20, " MiB"));
  return *bytes;
}

}  // namespace penstock
