// What goes over the Unix socket of a lane between two processes of one machine: messages
// of fixed size (SOCK_SEQPACKET: each arrives whole), one of them with a descriptor. The bytes of
// the rows do not: they go through a mailbox (core/tensor/peer_memory.h).
//
//   sender                      receiver
//   PeerHello            ──▶               which lane
//                        ◀──    PeerAnswer (and the mailbox's descriptor), once the lane is open
//   PeerTransfer ...     ──▶               that bytes lie in the mailbox; not by mail
//                        ◀──    PeerCredit ...    that the oldest ones do not any more
//
// A socket that ends is a dead peer. Sockets are abstract, so nothing is left where a process is
// killed; both ends ask the kernel whose process the other one is, and refuse another user's.
// Thread rule: sending and receiving may go on at once.
#pragma once

#include <cstdint>
#include <string>

#include "core/base/status.h"
#include "core/tensor/peer_memory.h"
#include "worker/transport/deadline.h"

namespace penstock {

// Both ends run on one machine and are of one release: the numbers are as they lie in memory.
struct PeerHello {
  uint32_t protocol = 0;  // kWorkerProtocol
  uint32_t kind = 0;      // LaneKind
  uint32_t epoch = 0;
};
struct PeerAnswer {
  static constexpr uint32_t kMaxText = 1000;
  uint32_t code = 0;  // absl::StatusCode: not OK, a refusal
  uint32_t text_bytes = 0;
  int64_t window = 0;         // transfers
  int64_t mailbox_bytes = 0;  // of what the descriptor maps
  char text[kMaxText] = {};   // of the refusal
};
struct PeerTransfer {
  uint64_t plan = 0;
  int64_t offset = 0;  // in the mailbox
  int64_t bytes = 0;
};
struct PeerCredit {
  int64_t transfers = 0;
};

// A socket that others connect to, and its name: "@0001f" as the kernel gives them out.
struct PeerListener {
  OwnDescriptor socket;
  std::string name;
};
// Errors: RESOURCE_EXHAUSTED.
absl::StatusOr<PeerListener> ListenForPeers();
// A connection that waits. Errors: UNAVAILABLE while there is none to be had; PERMISSION_DENIED for
// another user's, which is closed.
absl::StatusOr<OwnDescriptor> AcceptPeer(int listener);
// Errors: UNAVAILABLE where nobody listens, PERMISSION_DENIED where another user does.
absl::StatusOr<OwnDescriptor> ConnectToPeer(const std::string& name);

// One message. Errors: UNAVAILABLE where the other end is gone, or has not read for long.
absl::Status SendToPeer(int socket, const void* message, size_t bytes, int descriptor = -1);
// The next message, which has to be of this size; `descriptor`: what came with it, if anything did.
// Errors: UNAVAILABLE where the other end is gone and all that it sent was read; DEADLINE_EXCEEDED;
// INTERNAL for a message of another size.
absl::Status ReceiveFromPeer(int socket, const Deadline& deadline, void* message, size_t bytes,
                             OwnDescriptor* descriptor = nullptr);
// Both ends see the end; what waits in ReceiveFromPeer comes back. The descriptor stays.
void EndPeerSocket(int socket);

// The answer that opens, or refuses, a lane; and what an answer says.
PeerAnswer Refusal(const absl::Status& why);
absl::Status RefusalOf(const PeerAnswer& answer);

}  // namespace penstock
