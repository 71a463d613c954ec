// What rows go by between the stages of a pipeline: from device to device (worker/transport/
// peer_transport.h), or by way of the host over gRPC.
// Pure but for asking the driver which GPUs reach each other; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/status.h"

namespace penstock {

struct RowTransportOptions {
  // "grpc"; "peer"; "auto": peer between GPUs, where every stage's reaches the next one's.
  std::string transport = "auto";
  bool are_elsewhere = false;        // the stages were not started by this program
  std::vector<std::string> devices;  // one a stage, in order
  int64_t max_step_tokens = 0;
  int64_t hidden_size = 0;
};

// The bytes of each stage's mailbox (StageOptions::mailbox_bytes); 0: over gRPC. A line in the log
// says what "auto" has chosen for GPUs, and why. Errors: why "peer" cannot be, with what to do.
absl::StatusOr<int64_t> ChooseMailbox(const RowTransportOptions& options);

}  // namespace penstock
