// PeerMemory: memory through which one process gives bytes to another without copies by the host's
// side: the one that receives owns a Mailbox and hands its descriptor over; the one that sends maps
// it and writes there. When, and where in it, is for a transport to say (worker/transport/
// peer_transport.h): nothing here tells one process of what the other has done.
// Kinds: a GPU's memory (cuda/peer_memory.h), the host's (host_peer_memory.h).
// Mailboxes do not need the PeerMemory that made them.
// Thread rule: a PeerMemory from any thread; of each mailbox one thread reads or writes at a time.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "core/base/status.h"

namespace penstock {

// A file descriptor that closes itself; -1: none.
class OwnDescriptor {
 public:
  explicit OwnDescriptor(int descriptor = -1) : descriptor_(descriptor) {}
  ~OwnDescriptor() { Close(); }
  OwnDescriptor(OwnDescriptor&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)) {}
  OwnDescriptor& operator=(OwnDescriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  OwnDescriptor(const OwnDescriptor&) = delete;
  OwnDescriptor& operator=(const OwnDescriptor&) = delete;

  int get() const { return descriptor_; }
  bool empty() const { return descriptor_ < 0; }
  void Close() {
    if (descriptor_ >= 0) close(descriptor_);
    descriptor_ = -1;
  }

 private:
  int descriptor_;
};

// This process's own.
class Mailbox {
 public:
  virtual ~Mailbox() = default;
  virtual int64_t bytes() const = 0;
  // Where kernels find it (core/tensor/device_mail.h). Cleared when it is made.
  virtual const void* address() const = 0;
  // For the process that is to write. Whoever holds it keeps the memory, also when this process is
  // gone: it is to be closed as soon as it was sent. Errors: the device's or the system's.
  virtual absl::StatusOr<OwnDescriptor> Export() = 0;
  // Copies a part to `to`, where this process computes, and returns once it is there.
  // REQUIRES: inside the bounds.
  virtual void Read(int64_t offset, int64_t bytes, void* to) = 0;
};

// Another process's, mapped here until this is destroyed. That the other one dies changes nothing.
class PeerMailbox {
 public:
  virtual ~PeerMailbox() = default;
  // Copies to a part of it from where this process computes, and returns once all is there, for the
  // owner to read. REQUIRES: inside the bounds.
  virtual void Write(int64_t offset, const void* from, int64_t bytes) = 0;
  // Where kernels find it.
  virtual void* address() const = 0;
};

class PeerMemory {
 public:
  virtual ~PeerMemory() = default;
  // At least so many bytes. Errors: RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<std::shared_ptr<Mailbox>> MakeMailbox(int64_t bytes) = 0;
  // Maps what a Mailbox of so many bytes has exported, and closes it. Errors: FAILED_PRECONDITION
  // for a mailbox that cannot be reached from here, or is not what is said of it.
  virtual absl::StatusOr<std::unique_ptr<PeerMailbox>> Map(OwnDescriptor descriptor,
                                                           int64_t bytes) = 0;
};

}  // namespace penstock
