// The two ends of a lane whose stream is a CpuStream: what all transports have in common. Whether
// the bytes are the host's or a device's is the transport's to know.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/base/status.h"
#include "worker/transport/deadline.h"
#include "worker/transport/lane_table.h"
#include "worker/transport/transport.h"

namespace penstock {

// What a transport adds: where a transfer goes. Thread rule: Send from one thread at a time, the
// others from any.
class SendEnd {
 public:
  virtual ~SendEnd() = default;
  // Returns once the bytes are taken. Errors as of SendLane::Send.
  virtual absl::Status Send(std::span<const std::byte> bytes, uint64_t plan,
                            const Deadline& deadline) = 0;
  // Of SendLane.
  virtual absl::Status status() const = 0;
  // What waits in Send, and comes later, fails at once.
  virtual void Cancel() = 0;
  // Tells the receiver that nothing more comes. No Send runs or comes.
  virtual void Close() = 0;
};

// Where one comes from. Thread rule: Take from one thread at a time, the others from any.
class ReceiveEnd {
 public:
  virtual ~ReceiveEnd() = default;
  // Returns once transfer `plan` is in `bytes`. Errors as of ReceiveLane::Receive.
  virtual absl::Status Take(uint64_t plan, std::span<std::byte> bytes,
                            const Deadline& deadline) = 0;
  // Of ReceiveLane.
  virtual absl::Status status() const = 0;
  // What waits in Take, and comes later, fails at once.
  virtual void Cancel() = 0;
  // Tells the sender that nothing more is taken. No Take runs or comes.
  virtual void Close() = 0;
};

std::unique_ptr<SendLane> MakeCpuSendLane(std::shared_ptr<SendEnd> end,
                                          const TransportOptions& options);
std::unique_ptr<ReceiveLane> MakeCpuReceiveLane(std::shared_ptr<ReceiveEnd> end);

// Opens the table's lane, and closes it when it is destroyed.
std::unique_ptr<ReceiveLane> MakeCpuReceiveLane(std::shared_ptr<LaneTable> table, LaneKind kind,
                                                uint32_t epoch);

}  // namespace penstock
