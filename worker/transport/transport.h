// Transport: how rows get from one stage to the next, and sampled tokens from the last to the
// first.
//
// A lane goes one way between two stages and keeps order. Sending and receiving are enqueued on a
// stream and never block the caller: what they do, they do when the stream gets there. What fails
// there (time limit, dead peer, a transfer that is not the one expected) fails the stream.
// A receiving end takes at most `window` transfers that nobody has asked for yet; then the sender's
// stream waits. A lane belongs to one epoch: who connects in one that is over is refused.
// The ends may be destroyed in any order, and do not need the transport that made them; streams
// must outlive what was enqueued on them.
//
// Kinds: `local` (local_transport.h), between stages of one process; `grpc` (grpc_transport.h),
// between processes and hosts; `peer` (peer_transport.h), between processes of one machine, from
// device to device; `nccl` (nccl_transport.h), between GPUs of any machines, over one of the
// others. To add one: one .cc, and a line in tests/worker/transport/, whose suite all of them pass.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "core/base/status.h"
#include "core/sched/stage_types.h"
#include "core/tensor/tensor.h"
#include "worker/transport/stream.h"

namespace penstock {

enum class LaneKind : uint8_t {
  kRows,    // activations, to the next stage: [num_tokens, hidden] f32
  kTokens,  // sampled tokens, from the last stage to the first: [num_samples, 4] i64
};

// The sending end. One stream at a time.
class SendLane {
 public:
  // Cancels. What has not reached the receiver by now is lost; what has come whole can be taken.
  virtual ~SendLane() = default;
  // Sends `tensor` (contiguous, on the stream's device) as transfer number `plan`, in order of
  // calls. Its bytes may be changed by what is enqueued later: the lane has taken them by then.
  // `limit`: how long it may wait for room at the receiver; then the stream fails,
  // DEADLINE_EXCEEDED. A dead peer: UNAVAILABLE, at once.
  virtual void Send(Stream& stream, const Tensor& tensor, uint64_t plan, absl::Duration limit) = 0;
  // What Send does when the stream gets there, on the caller's thread: for lanes made of lanes.
  virtual absl::Status SendNow(const Tensor& tensor, uint64_t plan, absl::Duration limit) = 0;
  // Why nothing can be sent any more; OK while the receiver is there. Any thread.
  virtual absl::Status status() const = 0;
  // What waits here fails its stream, CANCELLED, at once; and so does what comes later. Any thread.
  virtual void Cancel() = 0;
};

// The receiving end. One stream at a time.
class ReceiveLane {
 public:
  // Cancels. The sender's stream fails, UNAVAILABLE.
  virtual ~ReceiveLane() = default;
  // Waits for transfer number `plan` and copies it into `tensor`. A transfer of a lower number is
  // passed over; another number, or another size, is the sender's mistake: the stream fails,
  // INTERNAL. `limit` counts from when the stream gets here: DEADLINE_EXCEEDED. A dead peer, once
  // all that came whole is taken: UNAVAILABLE, at once.
  virtual void Receive(Stream& stream, const Tensor& tensor, uint64_t plan,
                       absl::Duration limit) = 0;
  // As SendNow.
  virtual absl::Status ReceiveNow(const Tensor& tensor, uint64_t plan, absl::Duration limit) = 0;
  // Why nothing more comes; OK while the sender is there. Any thread.
  virtual absl::Status status() const = 0;
  // How long the Receive that ran last has waited. From the stream's thread.
  virtual int64_t waited_ns() const = 0;
  // What waits here fails its stream, CANCELLED, at once; and so does what comes later. Any thread.
  virtual void Cancel() = 0;
};

// One stage's door to the others. Thread rule: any thread.
class Transport {
 public:
  virtual ~Transport() = default;
  // What other stages pass to Connect.
  virtual std::string address() const = 0;
  // The receiving end of the one lane of this kind and epoch that another stage will connect to.
  // It may be opened before or after that one connects. REQUIRES: none is open of this kind.
  virtual std::unique_ptr<ReceiveLane> Open(LaneKind kind, uint32_t epoch) = 0;
  // Errors: UNAVAILABLE if the peer cannot be reached, DEADLINE_EXCEEDED if it does not open its
  // end within `limit`, FAILED_PRECONDITION if it is of another protocol version or the epoch is
  // over, ALREADY_EXISTS if another has connected to this lane. After an error that lane may be
  // spoilt: the next attempt belongs in a new epoch.
  virtual absl::StatusOr<std::unique_ptr<SendLane>> Connect(const std::string& address,
                                                            LaneKind kind, uint32_t epoch,
                                                            absl::Duration limit) = 0;
};

struct TransportOptions {
  // Transfers. Not fewer than plans may be on their way, or tokens that no plan has asked for yet
  // would hold up the last stage.
  int64_t window = kMaxPlansAhead;
  int64_t max_transfer_bytes = 1ll << 30;  // of one; larger ones are refused
};

}  // namespace penstock
