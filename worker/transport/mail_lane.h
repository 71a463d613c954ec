// The ends of a lane whose transfers kernels make (core/tensor/device_mail.h): the hosts connect
// it, tell each other of room, and notice who is gone; no transfer waits for them. Thread rule:
// Begin, End and Took from the thread that enqueues the kernels, the others from any.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "core/base/status.h"

namespace penstock {

class MailSender {
 public:
  struct Place {
    void* mailbox = nullptr;  // the receiver's, as kernels here find it
    int64_t offset = 0;       // behind its flags; of rows
  };

  virtual ~MailSender() = default;  // cancels, and lets go of the mailbox
  // Takes room for a transfer of rows, waiting for it; of tokens there always is. The mailbox stays
  // mapped until End, whoever dies. Errors: RESOURCE_EXHAUSTED for more than it holds; why the lane
  // is over; DEADLINE_EXCEEDED.
  virtual absl::StatusOr<Place> Begin(int64_t bytes, absl::Duration limit) = 0;
  // The kernels that store there are done.
  virtual void End() = 0;
  // Why the lane is over.
  virtual absl::Status status() const = 0;
  // Begin fails, CANCELLED, at once.
  virtual void Cancel() = 0;
};

class MailReceiver {
 public:
  virtual ~MailReceiver() = default;  // the sender's lane is over
  virtual const void* mailbox() const = 0;
  virtual int64_t mailbox_bytes() const = 0;  // without its flags
  // Kernels have read the oldest transfer of rows: its place is free.
  virtual void Took() = 0;
  virtual absl::Status status() const = 0;
};

}  // namespace penstock
