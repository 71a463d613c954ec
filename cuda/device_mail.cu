#include <algorithm>
#include <atomic>
#include <utility>

#include "cuda/device_mail.h"
#include "cuda/launch.h"
#include "cuda/pinned_memory.h"

namespace penstock::cuda {
namespace {

constexpr int kFed = sizeof(MailOrder::FedToken) / 4;
constexpr int kSent = sizeof(MailOrder::SentToken) / 4;
static_assert(kFed == 3 && kSent == 2);

// In pinned memory, by the host before a step; lists of tokens follow it.
struct Descriptor {
  uint64_t tag;  // of the plan
  uint64_t limit_ns;
  const uint8_t* rows_in;
  int64_t rows_in_bytes;
  int64_t mailbox_bytes;
  uint8_t* rows_out;
  int64_t rows_out_offset;
  int64_t rows_out_bytes;
  const uint8_t* tokens_in;
  uint64_t tokens_tag;  // of the latest plan that feeds one; 0: none does
  uint8_t* tokens_out;
  int32_t num_fed;
  int32_t num_sent;
};

constexpr int kCopyThreads = 1024;  // of a block that copies
constexpr int kAtOnce = 4;

enum Outcome : uint32_t { kCame = 0, kCancelledWait, kLate, kWrong };

// In pinned memory too. By the device, but for `cancelled`; all but `is_past` by what sends, since
// what receives ends once its stores are over the bus.
struct Report {
  uint64_t begin_ns;  // of the wait
  uint64_t came_ns;   // its end
  uint64_t out_ns;    // of what is sent
  uint32_t outcome;   // of the wait
  uint32_t is_past;   // the wait is over
  uint32_t cancelled;
};

// In the GPU's memory.
struct State {
  uint32_t is_void;
  uint32_t blocks;    // of the send at hand that are done
  uint32_t outcome;   // of the step's wait
  uint64_t begin_ns;  // likewise; 0: none
  uint64_t came_ns;
  const uint8_t* came;  // the rows at hand; null: none
  int64_t came_bytes;
};

__device__ __forceinline__ uint64_t NowNs() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

__device__ __forceinline__ uint64_t LoadFlag(const uint8_t* flag) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(flag) : "memory");
  return value;
}

__device__ __forceinline__ void RaiseFlag(uint8_t* flag, uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(flag), "l"(value) : "memory");
}

__device__ __forceinline__ uint32_t LoadVolatile(const uint32_t* at) {
  return *reinterpret_cast<const volatile uint32_t*>(at);
}

// Until `is_there`; one thread of the GPU, for reads of its clock take turns. What has come is
// taken, also if the wait is cancelled.
template <typename IsThere>
__device__ uint32_t Wait(const Report* report, uint64_t limit_ns, const IsThere& is_there) {
  constexpr int kPolls = 128;  // of the flag, between looks over the bus
  const uint64_t begin = NowNs();
  while (true) {
    for (int i = 0; i < kPolls; ++i) {
      if (is_there()) return kCame;
    }
    if (LoadVolatile(&report->cancelled) != 0) return is_there() ? kCame : kCancelledWait;
    if (limit_ns != 0 && NowNs() - begin > limit_ns) return kLate;
  }
}

// That a wait is over, and how; begin 0: there was none.
__device__ void EndWait(State* state, Report* report, uint64_t begin, uint32_t outcome) {
  if (begin != 0) reinterpret_cast<volatile Report*>(report)->is_past = 1;
  if (outcome != kCame) state->is_void = 1;
  state->outcome = outcome;
  state->begin_ns = begin;
  state->came_ns = begin != 0 ? NowNs() : 0;
}

// That all is sent: to the host.
__device__ void Tell(const State* state, Report* report) {
  auto* told = reinterpret_cast<volatile Report*>(report);
  told->begin_ns = state->begin_ns;
  told->came_ns = state->came_ns;
  told->outcome = state->outcome;
  told->out_ns = NowNs();
}

// By all threads of the grid; some accesses of 16 bytes under way each. Loads are not by the
// first-level cache, which may have what lay there before.
__device__ void Copy(const uint8_t* from, uint8_t* to, int64_t bytes) {
  const auto* source = reinterpret_cast<const uint4*>(from);
  auto* target = reinterpret_cast<uint4*>(to);
  const int64_t count = bytes / 16;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += kAtOnce * step) {
    uint4 part[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k * step < count) part[k] = __ldcg(source + i + k * step);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k * step < count) target[i + k * step] = part[k];
    }
  }
}

// One block. What came is copied by it, or by the kernel after it.
__global__ void AwaitRowsKernel(const Descriptor* order, State* state, Report* report, bool copies,
                                uint8_t* rows) {
  __shared__ const uint8_t* from;
  __shared__ int64_t bytes;
  uint64_t begin = 0;
  uint32_t outcome = kCame;
  if (threadIdx.x == 0) {
    from = nullptr;
    // The host's, which is there before the launch.
    bytes = order->rows_in_bytes;
    const uint8_t* mailbox = order->rows_in;
    const uint64_t tag = order->tag;
    const uint64_t limit_ns = order->limit_ns;
    const int64_t mailbox_bytes = order->mailbox_bytes;
    WaitForInputs();
    if (mailbox != nullptr) {
      begin = NowNs();
      const uint8_t* flag =
          mailbox + static_cast<uint32_t>(tag) % MailLayout::kFlags * MailLayout::kFlagBytes;
      outcome = Wait(report, limit_ns, [&] { return LoadFlag(flag) == tag; });
      if (outcome == kCame) {
        const auto* rows_flag = reinterpret_cast<const volatile RowsFlag*>(flag);
        const int64_t offset = rows_flag->offset;
        if (rows_flag->bytes != bytes || offset < 0 || offset + bytes > mailbox_bytes) {
          outcome = kWrong;
        } else {
          from = mailbox + MailLayout::kHeaderBytes + offset;
        }
      }
    }
    state->came = from;
    state->came_bytes = bytes;
  }
  WaitForInputs();
  __syncthreads();
  LetNextBegin();  // not before: blocks that wait with this one would keep a shared GPU from others
  if (copies && from != nullptr) Copy(from, rows, bytes);
  if (threadIdx.x == 0) EndWait(state, report, begin, outcome);
}

__global__ void CopyRowsKernel(const State* state, uint8_t* rows) {
  LetNextBegin();
  WaitForInputs();
  if (state->came != nullptr) Copy(state->came, rows, state->came_bytes);
}

__global__ void SendRowsKernel(const Descriptor* order, State* state, Report* report,
                               const uint8_t* rows) {
  __shared__ uint8_t* to;
  __shared__ int64_t offset;
  __shared__ int64_t bytes;
  uint64_t tag = 0;
  if (threadIdx.x == 0) {
    uint8_t* mailbox = order->rows_out;
    offset = order->rows_out_offset;
    bytes = order->rows_out_bytes;
    tag = order->tag;
    WaitForInputs();
    to = LoadVolatile(&state->is_void) != 0 ? nullptr : mailbox;
  }
  WaitForInputs();
  __syncthreads();
  if (to != nullptr) {
    Copy(rows, to + MailLayout::kHeaderBytes + offset, bytes);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (gridDim.x > 1) {
    __threadfence_system();  // of the whole block's stores, as the barrier has ordered them
    if (atomicAdd(&state->blocks, 1) + 1 < gridDim.x) return;
    state->blocks = 0;
    __threadfence_system();
  }
  if (to != nullptr) {
    uint8_t* flag = to + static_cast<uint32_t>(tag) % MailLayout::kFlags * MailLayout::kFlagBytes;
    auto* rows_flag = reinterpret_cast<volatile RowsFlag*>(flag);
    rows_flag->offset = offset;
    rows_flag->bytes = bytes;
    RaiseFlag(flag, tag);
  }
  Tell(state, report);
}

// One block, as the next.
__global__ void ReceiveTokensKernel(const Descriptor* order, const int32_t* fed, State* state,
                                    Report* report, int64_t vocab_size, int32_t* token_ids) {
  __shared__ uint32_t outcome;
  const uint8_t* mailbox = order->tokens_in;
  const int32_t count = order->num_fed;
  const uint64_t tag = order->tokens_tag;
  const uint64_t limit_ns = order->limit_ns;
  // The first ones' lists are here before the tokens.
  const auto first = static_cast<int32_t>(threadIdx.x);
  int32_t place = 0;
  int32_t index = 0;
  uint32_t expected = 0;
  const auto read = [&](int32_t i) {
    place = fed[i * kFed];
    index = fed[i * kFed + 1];
    expected = static_cast<uint32_t>(fed[i * kFed + 2]);
  };
  if (first < count) read(first);
  WaitForInputs();
  if (mailbox == nullptr) {
    if (threadIdx.x == 0) EndWait(state, report, 0, kCame);
    return;
  }
  uint64_t begin = 0;
  if (threadIdx.x == 0) {
    begin = NowNs();
    outcome = tag == 0 ? kCame : Wait(report, limit_ns, [&] {
      const uint64_t flag = LoadFlag(mailbox);
      return flag >> 32 == tag >> 32 && static_cast<int32_t>(flag - tag) >= 0;
    });
  }
  __syncthreads();
  LetNextBegin();
  if (threadIdx.x == 0) EndWait(state, report, begin, outcome);
  if (outcome != kCame) return;
  const auto* entries = reinterpret_cast<const uint64_t*>(mailbox + MailLayout::kHeaderBytes);
  for (int32_t i = first; i < count; i += static_cast<int32_t>(blockDim.x)) {
    if (i != first) read(i);
    const uint64_t entry = __ldcg(entries + place);
    const auto token = static_cast<int32_t>(entry);
    const bool is_it = entry >> 32 == expected && token >= 0 && token < vocab_size;
    token_ids[index] = is_it ? token : 0;
  }
}

__global__ void SendTokensKernel(const Descriptor* order, const int32_t* sent, State* state,
                                 Report* report, const int32_t* tokens) {
  uint8_t* mailbox = order->tokens_out;
  const int32_t count = order->num_sent;
  const uint64_t tag = order->tag;
  const auto first = static_cast<int32_t>(threadIdx.x);
  int32_t place = 0;
  uint64_t entry_tag = 0;
  const auto read = [&](int32_t i) {
    place = sent[i * kSent];
    entry_tag = static_cast<uint32_t>(sent[i * kSent + 1]);
  };
  if (first < count) read(first);
  WaitForInputs();
  if (LoadVolatile(&state->is_void) != 0) mailbox = nullptr;
  if (mailbox != nullptr) {
    auto* entries = reinterpret_cast<uint64_t*>(mailbox + MailLayout::kHeaderBytes);
    for (int32_t i = first; i < count; i += static_cast<int32_t>(blockDim.x)) {
      if (i != first) read(i);
      *reinterpret_cast<volatile uint64_t*>(entries + place) =
          entry_tag << 32 | static_cast<uint32_t>(tokens[i]);
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (mailbox != nullptr) RaiseFlag(mailbox, tag);
  Tell(state, report);
}

class CudaMail final : public DeviceMail {
 public:
  CudaMail(cudaStream_t stream, int64_t max_tokens, int64_t vocab_size)
      : stream_(stream), max_tokens_(max_tokens), vocab_size_(vocab_size) {}

  absl::Status Allocate(BaseAllocator& memory) {
    const int64_t lists = max_tokens_ * (kFed + kSent) * 4;
    PENSTOCK_ASSIGN_OR_RETURN(
        pinned_, Tensor::Make(DataType::kU8, {kReportAt + kReportBytes + lists}, pinned_memory_));
    PENSTOCK_ASSIGN_OR_RETURN(state_, Tensor::Make(DataType::kU8, {sizeof(State)}, memory));
    CUDA_CHECK(cudaMemsetAsync(state(), 0, sizeof(State), stream_));
    CUDA_CHECK(cudaStreamSynchronize(stream_));
    return absl::OkStatus();
  }

  void Order(const MailOrder& order) override {
    PENSTOCK_CHECK(std::ssize(order.fed) <= max_tokens_ && std::ssize(order.sent) <= max_tokens_);
    Descriptor& d = *descriptor();
    d.tag = PlanTag(order.epoch, order.plan);
    d.limit_ns = static_cast<uint64_t>(order.limit_ns);
    d.rows_in = static_cast<const uint8_t*>(order.rows_in);
    d.rows_in_bytes = order.rows_in_bytes;
    d.mailbox_bytes = order.mailbox_bytes;
    d.rows_out = static_cast<uint8_t*>(order.rows_out);
    d.rows_out_offset = order.rows_out_offset;
    d.rows_out_bytes = order.rows_out_bytes;
    d.tokens_in = static_cast<const uint8_t*>(order.tokens_in);
    d.tokens_tag = order.tokens_from == 0 ? 0 : PlanTag(order.epoch, order.tokens_from);
    d.tokens_out = static_cast<uint8_t*>(order.tokens_out);
    d.num_fed = static_cast<int32_t>(order.fed.size());
    d.num_sent = static_cast<int32_t>(order.sent.size());
    std::copy(order.fed.begin(), order.fed.end(), reinterpret_cast<MailOrder::FedToken*>(fed()));
    std::copy(order.sent.begin(), order.sent.end(),
              reinterpret_cast<MailOrder::SentToken*>(sent()));
    volatile Report& r = *report();
    r.begin_ns = 0;
    r.came_ns = 0;
    r.out_ns = 0;
    r.outcome = kCame;
    r.is_past = 0;
    has_wait_ = order.rows_in != nullptr || order.tokens_in != nullptr;
  }

  void ReceiveRows(const Tensor& rows) override {
    auto* const to = static_cast<uint8_t*>(const_cast<void*>(rows.raw()));
    const unsigned blocks = CopyBlocks(rows);
    Launch(stream_, {1, kCopyThreads}, AwaitRowsKernel, descriptor(), state(), report(),
           blocks == 1, to);
    if (blocks > 1) Launch(stream_, {blocks, kCopyThreads}, CopyRowsKernel, state(), to);
  }
  void SendRows(const Tensor& rows) override {
    Launch(stream_, {CopyBlocks(rows), kCopyThreads}, SendRowsKernel, descriptor(), state(),
           report(), static_cast<const uint8_t*>(rows.raw()));
  }
  void ReceiveTokens(const Tensor& token_ids) override {
    Launch(stream_, {1, kThreads}, ReceiveTokensKernel, descriptor(), fed(), state(), report(),
           vocab_size_, Elements<int32_t>(token_ids));
  }
  void SendTokens(const Tensor& tokens) override {
    Launch(stream_, {1, kThreads}, SendTokensKernel, descriptor(), sent(), state(), report(),
           Elements<const int32_t>(tokens));
  }

  absl::StatusOr<MailTimes> Take() override {
    const volatile Report& r = *report();
    has_wait_ = false;
    switch (r.outcome) {
      case kCame:
        break;
      case kLate:
        return MailIsLate(static_cast<int64_t>(descriptor()->limit_ns));
      case kWrong:
        return MailIsWrong(descriptor()->rows_in_bytes, static_cast<uint32_t>(descriptor()->tag));
      default:
        return absl::CancelledError("the wait was cancelled");
    }
    MailTimes times;
    if (r.came_ns != 0) {
      times.waited_ns = static_cast<int64_t>(r.came_ns - r.begin_ns);
      times.computed_ns = static_cast<int64_t>(r.out_ns - r.came_ns);
    }
    return times;
  }

  void Cancel() override { *const_cast<volatile uint32_t*>(&report()->cancelled) = 1; }
  bool waits() const override {
    return has_wait_ && *const_cast<volatile uint32_t*>(&report()->is_past) == 0;
  }
  void Reset() override {
    *const_cast<volatile uint32_t*>(&report()->cancelled) = 0;
    CUDA_CHECK(cudaMemsetAsync(state(), 0, sizeof(State), stream_));
    CUDA_CHECK(cudaStreamSynchronize(stream_));
  }

 private:
  static constexpr int64_t kReportAt = 256;
  static constexpr int64_t kReportBytes = 256;
  static_assert(sizeof(Descriptor) <= kReportAt && sizeof(Report) <= kReportBytes);

  // As many as NVLink needs.
  static unsigned CopyBlocks(const Tensor& rows) {
    constexpr int64_t kMostBlocks = 128;
    constexpr int64_t kBytes = kCopyThreads * kAtOnce * 16;
    PENSTOCK_CHECK_EQ(rows.bytes() % 16, 0);
    return Blocks(std::min(rows.bytes(), kMostBlocks * kBytes), kBytes);
  }
  uint8_t* At(int64_t offset) const {
    return static_cast<uint8_t*>(const_cast<void*>(pinned_.raw())) + offset;
  }
  Descriptor* descriptor() const { return reinterpret_cast<Descriptor*>(At(0)); }
  Report* report() const { return reinterpret_cast<Report*>(At(kReportAt)); }
  int32_t* fed() const { return reinterpret_cast<int32_t*>(At(kReportAt + kReportBytes)); }
  int32_t* sent() const { return fed() + max_tokens_ * kFed; }
  State* state() const { return static_cast<State*>(const_cast<void*>(state_.raw())); }

  const cudaStream_t stream_;
  const int64_t max_tokens_;
  const int64_t vocab_size_;
  PinnedMemory pinned_memory_;
  Tensor pinned_;  // descriptor, report, lists
  Tensor state_;
  std::atomic<bool> has_wait_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceMail>> MakeDeviceMail(cudaStream_t stream, int64_t max_tokens,
                                                           int64_t vocab_size,
                                                           BaseAllocator& memory) {
  auto mail = std::make_unique<CudaMail>(stream, max_tokens, vocab_size);
  PENSTOCK_RETURN_IF_ERROR(mail->Allocate(memory));
  return mail;
}

}  // namespace penstock::cuda
