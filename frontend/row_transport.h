// What rows go by between the stages of a pipeline: from device to device, by peer memory (worker/
// transport/peer_transport.h) or by NCCL (nccl_transport.h), or by way of the host over gRPC.
// Pure but for asking the driver which GPUs reach each other, and whether NCCL is there;
// thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/status.h"

namespace penstock {

struct RowTransportOptions {
  // "grpc"; "peer"; "nccl"; "auto": between GPUs peer where every stage's reaches the next one's,
  // else nccl where this machine has it; grpc for all others.
  std::string transport = "auto";
  bool are_elsewhere = false;        // the stages were not started by this program
  std::vector<std::string> devices;  // one a stage, in order
  int64_t max_step_tokens = 0;
  int64_t hidden_size = 0;
};

// Of every stage's StageOptions. Neither: over gRPC.
struct RowTransport {
  int64_t mailbox_bytes = 0;
  bool nccl = false;
};

// A line in the log says what "auto" has chosen for GPUs, and why. Errors: why "peer" or "nccl"
// cannot be, with what to do.
absl::StatusOr<RowTransport> ChooseRowTransport(const RowTransportOptions& options);

}  // namespace penstock
