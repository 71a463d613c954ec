// DeviceMail: what kernels of one stage hand to kernels of another, while both hosts do something
// else: rows from a stage to the next, sampled tokens from the last to the first. The receiver has
// a mailbox (core/tensor/peer_memory.h); the sender's kernels store there and raise a flag, and the
// receiver's wait for the flag at the head of a step whose kernels are all enqueued.
//
// A wait that ends without its flag makes the step void: what it computes is nobody's, and neither
// its Send nor later ones store anything, until Reset. Kinds: a GPU's (cuda/device_mail.h), the
// host's (host_mail.h), whose kernels are calls.
// Thread rule: one thread at a time, but for Cancel and waits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/tensor/tensor.h"

namespace penstock {

// Where a mailbox has what. Flags are 64 bytes apart, so that they share nothing.
// Rows: a flag a transfer, by the plan's number modulo kFlags, then a ring of bytes.
// Tokens: one flag, then entries of 8 bytes, by plan modulo kFlags and slot.
struct MailLayout {
  static constexpr int64_t kFlags = 64;  // plans on their way at most
  static constexpr int64_t kFlagBytes = 64;
  static constexpr int64_t kHeaderBytes = kFlags * kFlagBytes;

  static int64_t TokenPlace(uint64_t plan, int64_t slot, int64_t max_sequences) {
    return static_cast<int64_t>(plan % kFlags) * max_sequences + slot;
  }
  static int64_t TokenBytes(int64_t max_sequences) {
    return kHeaderBytes + kFlags * max_sequences * 8;
  }
};

// An entry's token is the one that is expected if its tag is: of another sequence, position or
// epoch it is not.
inline uint32_t TokenTag(uint32_t epoch, uint32_t generation, int64_t position) {
  uint64_t mixed = (uint64_t{epoch} << 32 | generation) * 0x9E3779B97F4A7C15;
  mixed = (mixed ^ mixed >> 29 ^ static_cast<uint64_t>(position)) * 0xBF58476D1CE4E5B9;
  return static_cast<uint32_t>(mixed >> 32);
}

// What a flag has once the plan's transfer is there; flags of tokens count up by it.
inline uint64_t PlanTag(uint32_t epoch, uint64_t plan) {
  return uint64_t{epoch} << 32 | (plan & 0xffffffff);
}

// A flag of rows, in a mailbox.
struct RowsFlag {
  uint64_t tag = 0;  // last, by a release
  int64_t offset = 0;
  int64_t bytes = 0;
};

struct MailOrder {
  // A token of the batch that is whatever an entry of the mailbox says.
  struct FedToken {
    int32_t place = 0;  // MailLayout::TokenPlace
    int32_t index = 0;  // in the batch
    uint32_t tag = 0;
  };
  // The sample of that number goes to that entry.
  struct SentToken {
    int32_t place = 0;
    uint32_t tag = 0;
  };

  uint32_t epoch = 0;
  uint64_t plan = 0;
  int64_t limit_ns = 0;  // of the wait; 0: none

  // Device addresses; null: nothing comes, or goes.
  const void* rows_in = nullptr;
  int64_t rows_in_bytes = 0;  // of the transfer
  int64_t mailbox_bytes = 0;  // of this stage's, without its flags
  void* rows_out = nullptr;
  int64_t rows_out_offset = 0;  // behind the flags
  int64_t rows_out_bytes = 0;
  const void* tokens_in = nullptr;
  uint64_t tokens_from = 0;  // the latest plan that feeds one; 0: none does
  std::vector<FedToken> fed;
  void* tokens_out = nullptr;
  std::vector<SentToken> sent;
};

// How long a step waited for its mail, and computed after that, by the device's clock; and how long
// ago that ended, where it is known.
struct MailTimes {
  int64_t waited_ns = 0;
  int64_t computed_ns = 0;
  int64_t since_ns = 0;
};

// What a wait ends with that runs out of time, or finds a transfer that is not the order's.
inline absl::Status MailIsLate(int64_t limit_ns) {
  return absl::DeadlineExceededError(
      absl::StrCat("nothing has come for ", limit_ns / 1000000,
                   " ms: the stage before this one hangs, or is that much slower"));
}
inline absl::Status MailIsWrong(int64_t expected_bytes, uint64_t plan) {
  return absl::InternalError(
      absl::StrCat("expected ", expected_bytes, " bytes of plan ", plan,
                   ", and others came: the stage before this one has run another plan, or is of "
                   "another version"));
}

class DeviceMail {
 public:
  virtual ~DeviceMail() = default;

  // What the kernels of the next step receive and send. REQUIRES: those of the last one are done.
  // At most as many fed and sent tokens as a step has sequences.
  virtual void Order(const MailOrder& order) = 0;

  // Enqueue, also into what is kept and enqueued again: what they do is the order's to say.
  // Waits, and copies the order's bytes into `rows`.
  virtual void ReceiveRows(const Tensor& rows) = 0;
  // Waits, and puts fed tokens into `token_ids` [n] i32: 0 for one that is not there, or not inside
  // the vocabulary.
  virtual void ReceiveTokens(const Tensor& token_ids) = 0;
  virtual void SendRows(const Tensor& rows) = 0;
  // `tokens` [n] i32, by sample.
  virtual void SendTokens(const Tensor& tokens) = 0;

  // What became of the step, once its kernels are done. Errors: CANCELLED; DEADLINE_EXCEEDED;
  // INTERNAL for a transfer that is not as expected.
  virtual absl::StatusOr<MailTimes> Take() = 0;

  // What waits, and what will, comes back at once where its flag is not there yet. Any thread.
  virtual void Cancel() = 0;
  // Whether a step that was enqueued waits. Any thread.
  virtual bool waits() const = 0;
  // Nothing is cancelled or void any more. REQUIRES: no kernel is enqueued.
  virtual void Reset() = 0;
};

}  // namespace penstock
