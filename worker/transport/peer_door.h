// PeerDoor: the receiving side of the peer transport: a socket that senders connect to, and a
// thread for each of them, which turns its messages into what a LaneTable's receiving ends take:
// pieces that lie in this stage's mailbox. Thread rule: none but the owner's.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <string>
#include <thread>

#include "core/tensor/peer_memory.h"
#include "worker/transport/lane_table.h"
#include "worker/transport/peer_socket.h"

namespace penstock {

class PeerDoor {
 public:
  // Errors: of ListenForPeers.
  // `kind`: what the mailbox is for.
  static absl::StatusOr<std::unique_ptr<PeerDoor>> Open(std::shared_ptr<LaneTable> lanes,
                                                        LaneKind kind,
                                                        std::shared_ptr<Mailbox> mailbox);
  // Refuses who comes, and ends the lanes that have their sender: both of their ends see it.
  ~PeerDoor();
  PeerDoor(const PeerDoor&) = delete;
  PeerDoor& operator=(const PeerDoor&) = delete;

  const std::string& name() const { return listener_.name; }

 private:
  class Guest;

  PeerDoor(PeerListener listener, std::shared_ptr<LaneTable> lanes, LaneKind kind,
           std::shared_ptr<Mailbox> mailbox);
  void Run();
  void ForgetThoseThatLeft();

  const PeerListener listener_;
  const std::shared_ptr<LaneTable> lanes_;
  const LaneKind kind_;
  const std::shared_ptr<Mailbox> mailbox_;

  // The thread's own, until it has ended: those who are here, and a few who have left.
  std::list<std::shared_ptr<Guest>> guests_;
  std::atomic<bool> closing_ = false;
  std::thread thread_;
};

}  // namespace penstock
