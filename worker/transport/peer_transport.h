// The transport between processes of one machine whose rows never touch the host's memory: the
// receiving stage owns a mailbox on the device where it computes, the sending one maps it and
// stores into it. A Unix socket (peer_socket.h) connects the two, tells of room, and ends with its
// process.
//
// By signals on the device, OpenMail and ConnectMail: kernels store and wait (core/tensor/
// device_mail.h), rows and sampled tokens.
//
// By the host's signals, Open and Connect: rows only, tokens keep to another transport. That bytes
// are there is told over the socket too: a stage's kernels have ended when its rows are copied
// (StageExecutor::Execute waits for them), and the copy has ended when it is told of. So no stream
// of one stage waits for one of another, and no graph knows of a peer.
//
// A mailbox is a ring: a transfer lies in one piece, and its place is free once it was taken. It is
// made once; each epoch's sender maps it, and lets go of it as soon as its owner is gone. Of two
// epochs' senders one writes at a time: a stage connects once its stream is fenced, and a process
// that takes a dead one's place comes after that one's end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/tensor/peer_memory.h"
#include "worker/transport/mail_lane.h"
#include "worker/transport/transport.h"

namespace penstock {

struct PeerTransportOptions {
  TransportOptions transport = {};
  // Of the mailbox, rounded up; 0: none, for a stage that takes nothing. Two of the largest
  // transfers of rows let one be written while another is read.
  int64_t mailbox_bytes = 0;
  LaneKind kind = LaneKind::kRows;  // of what it takes
  // The lanes are those of OpenMail and ConnectMail, and the mailbox has MailLayout's flags too.
  bool by_device = false;
};

class PeerTransport : public Transport {
 public:
  // Called once the other end is gone, from any thread, not after the lane's end.
  using WhenGone = std::function<void()>;
  // As Open and Connect. The first is of the mailbox's kind. REQUIRES: by_device.
  virtual std::unique_ptr<MailReceiver> OpenMail(uint32_t epoch, WhenGone when_gone) = 0;
  virtual absl::StatusOr<std::unique_ptr<MailSender>> ConnectMail(const std::string& address,
                                                                  LaneKind kind, uint32_t epoch,
                                                                  absl::Duration limit,
                                                                  WhenGone when_gone) = 0;
};

// `others` carries tokens; its address is part of this one's. It must outlive the transport.
// Tensors of rows are where `memory` copies from and to. Errors: the memory's.
absl::StatusOr<std::unique_ptr<PeerTransport>> MakePeerTransport(
    Transport& others, std::unique_ptr<PeerMemory> memory, const PeerTransportOptions& options);

}  // namespace penstock
