#include "core/tensor/host_mail.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <cstring>
#include <ctime>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock {
namespace {

constexpr int64_t kSliceNs = 2'000'000;

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Flags change in memory that another process maps too, by its own address.
uint64_t LoadFlag(const void* flag) {
  return std::atomic_ref<uint64_t>(*static_cast<uint64_t*>(const_cast<void*>(flag)))
      .load(std::memory_order_acquire);
}

void RaiseFlag(void* flag, uint64_t value) {
  std::atomic_ref<uint64_t>(*static_cast<uint64_t*>(flag)).store(value, std::memory_order_release);
  syscall(SYS_futex, flag, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

// Until the flag is no longer what it was, or for a slice of time.
void SleepOn(const void* flag, uint64_t seen) {
  timespec slice = {};
  slice.tv_nsec = kSliceNs;
  // Its lesser half, which lies first. That both halves change but this one costs a slice.
  syscall(SYS_futex, flag, FUTEX_WAIT, static_cast<uint32_t>(seen), &slice, nullptr, 0);
}

class HostMail final : public DeviceMail {
 public:
  explicit HostMail(int64_t vocab_size) : vocab_size_(vocab_size) {}

  void Order(const MailOrder& order) override {
    order_ = order;
    outcome_ = absl::OkStatus();
    times_ = MailTimes();
    came_at_ = NowNs();
  }

  void ReceiveRows(const Tensor& rows) override {
    if (order_.rows_in == nullptr) return;
    const std::byte* const mailbox = static_cast<const std::byte*>(order_.rows_in);
    const uint64_t tag = PlanTag(order_.epoch, order_.plan);
    const std::byte* const flag = mailbox + FlagOffset();
    if (!Await(flag, [tag](uint64_t value) { return value == tag; })) return;
    RowsFlag what;
    std::memcpy(&what, flag, sizeof(what));
    if (what.bytes != order_.rows_in_bytes || what.offset < 0 ||
        what.offset > order_.mailbox_bytes - what.bytes) {
      return Void(MailIsWrong(order_.rows_in_bytes, order_.plan));
    }
    std::memcpy(Bytes(rows), mailbox + MailLayout::kHeaderBytes + what.offset,
                static_cast<size_t>(what.bytes));
  }

  void ReceiveTokens(const Tensor& token_ids) override {
    if (order_.tokens_in == nullptr) return;
    const std::byte* const mailbox = static_cast<const std::byte*>(order_.tokens_in);
    if (order_.tokens_from != 0) {
      const uint64_t tag = PlanTag(order_.epoch, order_.tokens_from);
      const auto is_there = [tag](uint64_t value) {
        return value >> 32 == tag >> 32 && static_cast<int32_t>(value - tag) >= 0;
      };
      if (!Await(mailbox, is_there)) return;
    }
    const TensorWrapper<int32_t> ids(token_ids);
    for (const MailOrder::FedToken& fed : order_.fed) {
      const uint64_t entry = LoadFlag(mailbox + MailLayout::kHeaderBytes + int64_t{8} * fed.place);
      const auto token = static_cast<int32_t>(entry);
      const bool is_it = entry >> 32 == fed.tag && token >= 0 && token < vocab_size_;
      ids[fed.index] = is_it ? token : 0;
    }
  }

  void SendRows(const Tensor& rows) override {
    if (order_.rows_out != nullptr && !is_void_) {
      std::byte* const mailbox = static_cast<std::byte*>(order_.rows_out);
      std::memcpy(mailbox + MailLayout::kHeaderBytes + order_.rows_out_offset, Bytes(rows),
                  static_cast<size_t>(order_.rows_out_bytes));
      std::byte* const flag = mailbox + FlagOffset();
      const RowsFlag what{0, order_.rows_out_offset, order_.rows_out_bytes};
      std::memcpy(flag + sizeof(what.tag), &what.offset, sizeof(what) - sizeof(what.tag));
      EndStep();
      return RaiseFlag(flag, PlanTag(order_.epoch, order_.plan));
    }
    EndStep();
  }

  void SendTokens(const Tensor& tokens) override {
    if (order_.tokens_out != nullptr && !is_void_) {
      std::byte* const mailbox = static_cast<std::byte*>(order_.tokens_out);
      const TensorWrapper<const int32_t> values(tokens);
      for (size_t i = 0; i < order_.sent.size(); ++i) {
        const MailOrder::SentToken& sent = order_.sent[i];
        const uint64_t entry =
            uint64_t{sent.tag} << 32 | static_cast<uint32_t>(values[static_cast<int64_t>(i)]);
        std::memcpy(mailbox + MailLayout::kHeaderBytes + int64_t{8} * sent.place, &entry,
                    sizeof(entry));
      }
      EndStep();
      return RaiseFlag(mailbox, PlanTag(order_.epoch, order_.plan));
    }
    EndStep();
  }

  absl::StatusOr<MailTimes> Take() override {
    PENSTOCK_RETURN_IF_ERROR(outcome_);
    times_.since_ns = NowNs() - ended_at_;
    return times_;
  }

  void Cancel() override { cancelled_ = true; }
  bool waits() const override { return waits_; }
  void Reset() override {
    cancelled_ = false;
    is_void_ = false;
  }

 private:
  int64_t FlagOffset() const {
    return static_cast<int64_t>(order_.plan % MailLayout::kFlags) * MailLayout::kFlagBytes;
  }
  static void* Bytes(const Tensor& tensor) { return const_cast<void*>(tensor.raw()); }

  // False: the step is void. What has come is taken, also if the wait is cancelled.
  template <typename IsThere>
  bool Await(const void* flag, const IsThere& is_there) {
    const int64_t begin = NowNs();
    waits_ = true;
    absl::Status why;
    while (why.ok()) {
      const bool cancelled = cancelled_;
      const uint64_t value = LoadFlag(flag);
      if (is_there(value)) break;
      if (cancelled) {
        why = absl::CancelledError("the wait was cancelled");
      } else if (order_.limit_ns != 0 && NowNs() - begin > order_.limit_ns) {
        why = MailIsLate(order_.limit_ns);
      } else {
        SleepOn(flag, value);
      }
    }
    waits_ = false;
    came_at_ = NowNs();
    times_.waited_ns = came_at_ - begin;
    if (!why.ok()) Void(why);
    return why.ok();
  }
  void Void(const absl::Status& why) {
    is_void_ = true;
    outcome_ = why;
  }
  void EndStep() {
    ended_at_ = NowNs();
    times_.computed_ns = ended_at_ - came_at_;
  }

  const int64_t vocab_size_;
  MailOrder order_;
  absl::Status outcome_;
  MailTimes times_;
  int64_t came_at_ = 0;
  int64_t ended_at_ = 0;
  bool is_void_ = false;
  std::atomic<bool> cancelled_ = false;
  std::atomic<bool> waits_ = false;
};

}  // namespace

std::unique_ptr<DeviceMail> MakeHostMail(int64_t vocab_size) {
  return std::make_unique<HostMail>(vocab_size);
}

}  // namespace penstock
