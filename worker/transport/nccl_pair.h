// NcclPair: a communicator of NCCL with two ranks, one that sends and one that receives.
//
// Nothing here waits inside NCCL or CUDA: calls are non-blocking, their ends are polled for, beside
// a deadline and whatever else can end the wait, since NCCL does not say that the process at the
// other end was killed (tests/spike). A wait that ends early ends the communicator, in a thread of
// its own, for that has been seen to hang: if it does, this process ends, and whoever has started
// it starts it again. Captured graphs know nothing of it; outside of them ncclCommAbort has ended
// every wait (tests/spike).
// Thread rule: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "core/base/status.h"
#include "core/tensor/link_stream.h"
#include "worker/transport/deadline.h"
#include "worker/transport/nccl_library.h"

namespace penstock {

struct NcclPairOptions {
  std::shared_ptr<const NcclLibrary> library;
  std::shared_ptr<LinkStream> stream;  // one pair at a time uses it
  // Why to wait no longer, never OK again then. Called often.
  std::function<absl::Status()> ended;
  absl::Duration abort_limit = absl::Seconds(10);
};

class NcclPair {
 public:
  enum class Role { kSends = 0, kReceives = 1 };  // ranks

  // Both ranks at once, with the id that one of them was given by the library; returns when bytes
  // have gone through. Errors: DEADLINE_EXCEEDED, with what to do; `ended`'s; INTERNAL, the
  // library's own.
  static absl::StatusOr<std::unique_ptr<NcclPair>> Connect(NcclPairOptions options,
                                                           const NcclId& id, Role role,
                                                           const Deadline& deadline);
  ~NcclPair();  // ends the communicator
  NcclPair(const NcclPair&) = delete;
  NcclPair& operator=(const NcclPair&) = delete;

  // Return once the bytes have left where they lie, or are there; device memory. After an error the
  // pair is over. The receiver says the sizes that the sender has sent, in that order.
  absl::Status Send(const std::byte* from, int64_t bytes, const Deadline& deadline);
  absl::Status Receive(std::byte* to, int64_t bytes, const Deadline& deadline);
  // Receives what nobody wants.
  absl::Status Skip(int64_t bytes, const Deadline& deadline);

 private:
  NcclPair(NcclPairOptions options, Role role) : options_(std::move(options)), role_(role) {}
  absl::Status Begin(const NcclId& id, const Deadline& deadline);
  // `call` enqueues bytes [offset, offset + count) of a transfer.
  absl::Status InPieces(int64_t bytes, const Deadline& deadline,
                        const std::function<int(int64_t offset, size_t count)>& call);
  absl::Status Wait(int result, const Deadline& deadline);
  absl::Status Check(int result);
  absl::Status WaitNoLonger(const Deadline& deadline);
  void End();

  const NcclPairOptions options_;
  const Role role_;
  NcclLibrary::Comm comm_ = nullptr;  // null: over
};

}  // namespace penstock
