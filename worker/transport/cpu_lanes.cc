#include "worker/transport/cpu_lanes.h"

#include <chrono>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace penstock {
namespace {

// A task on a stream may outlive its lane, so it shares what it works with. `running` is held
// while it works: who destroys the lane waits for it, since the tensor may go next.
struct SendState {
  std::shared_ptr<SendEnd> end;
  int64_t max_transfer_bytes = 0;
  std::mutex running;
};

class CpuSendLane final : public SendLane {
 public:
  CpuSendLane(std::shared_ptr<SendEnd> end, const TransportOptions& options) {
    state_->end = std::move(end);
    state_->max_transfer_bytes = options.max_transfer_bytes;
  }
  ~CpuSendLane() override {
    Cancel();
    std::lock_guard<std::mutex> lock(state_->running);
    state_->end->Close();
  }

  void Send(Stream& stream, const Tensor& tensor, uint64_t plan, absl::Duration limit) override {
    PENSTOCK_CHECK(tensor.is_contiguous());
    auto& cpu_stream = static_cast<CpuStream&>(stream);
    cpu_stream.Enqueue([state = state_, &cpu_stream, tensor, plan, limit] {
      std::lock_guard<std::mutex> lock(state->running);
      if (!cpu_stream.status().ok()) return;
      cpu_stream.Fail(SendNow(*state, tensor, plan, limit));
    });
  }

  absl::Status SendNow(const Tensor& tensor, uint64_t plan, absl::Duration limit) override {
    std::lock_guard<std::mutex> lock(state_->running);
    return SendNow(*state_, tensor, plan, limit);
  }
  absl::Status status() const override { return state_->end->status(); }
  void Cancel() override { state_->end->Cancel(); }

 private:
  static absl::Status SendNow(SendState& state, const Tensor& tensor, uint64_t plan,
                              absl::Duration limit) {
    if (tensor.bytes() > state.max_transfer_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("transfer ", plan, " has ", tensor.bytes(), " bytes, the limit is ",
                       state.max_transfer_bytes, ": lower --max-step-tokens"));
    }
    return state.end->Send(
        {static_cast<const std::byte*>(tensor.raw()), static_cast<size_t>(tensor.bytes())}, plan,
        Deadline(limit));
  }

  const std::shared_ptr<SendState> state_ = std::make_shared<SendState>();
};

struct ReceiveState {
  std::shared_ptr<ReceiveEnd> end;
  int64_t waited_ns = 0;  // the stream's own
  std::mutex running;
};

class CpuReceiveLane final : public ReceiveLane {
 public:
  explicit CpuReceiveLane(std::shared_ptr<ReceiveEnd> end) { state_->end = std::move(end); }
  ~CpuReceiveLane() override {
    Cancel();
    std::lock_guard<std::mutex> lock(state_->running);
    state_->end->Close();
  }

  void Receive(Stream& stream, const Tensor& tensor, uint64_t plan, absl::Duration limit) override {
    PENSTOCK_CHECK(tensor.is_contiguous());
    auto& cpu_stream = static_cast<CpuStream&>(stream);
    cpu_stream.Enqueue([state = state_, &cpu_stream, tensor = tensor, plan, limit]() mutable {
      std::lock_guard<std::mutex> lock(state->running);
      state->waited_ns = 0;
      if (!cpu_stream.status().ok()) return;
      const auto begin = std::chrono::steady_clock::now();
      cpu_stream.Fail(ReceiveNow(*state, tensor, plan, limit));
      state->waited_ns = std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count();
    });
  }

  absl::Status ReceiveNow(const Tensor& tensor, uint64_t plan, absl::Duration limit) override {
    std::lock_guard<std::mutex> lock(state_->running);
    return ReceiveNow(*state_, tensor, plan, limit);
  }
  int64_t waited_ns() const override { return state_->waited_ns; }
  absl::Status status() const override { return state_->end->status(); }
  void Cancel() override { state_->end->Cancel(); }

 private:
  static absl::Status ReceiveNow(ReceiveState& state, Tensor tensor, uint64_t plan,
                                 absl::Duration limit) {
    return state.end->Take(
        plan, {static_cast<std::byte*>(tensor.raw()), static_cast<size_t>(tensor.bytes())},
        Deadline(limit));
  }

  const std::shared_ptr<ReceiveState> state_ = std::make_shared<ReceiveState>();
};

// Of a LaneTable's queue.
class QueueReceiveEnd final : public ReceiveEnd {
 public:
  QueueReceiveEnd(std::shared_ptr<LaneTable> table, LaneKind kind, uint32_t epoch)
      : table_(std::move(table)), kind_(kind), queue_(table_->Open(kind, epoch)) {}
  absl::Status Take(uint64_t plan, std::span<std::byte> bytes, const Deadline& deadline) override {
    return queue_->Take(plan, bytes, deadline);
  }
  absl::Status status() const override { return queue_->broken(); }
  void Cancel() override { queue_->Cancel(); }
  void Close() override { table_->Close(kind_); }

 private:
  const std::shared_ptr<LaneTable> table_;
  const LaneKind kind_;
  const std::shared_ptr<ReceiveQueue> queue_;
};

}  // namespace

std::unique_ptr<SendLane> MakeCpuSendLane(std::shared_ptr<SendEnd> end,
                                          const TransportOptions& options) {
  return std::make_unique<CpuSendLane>(std::move(end), options);
}

std::unique_ptr<ReceiveLane> MakeCpuReceiveLane(std::shared_ptr<LaneTable> table, LaneKind kind,
                                                uint32_t epoch) {
  return std::make_unique<CpuReceiveLane>(
      std::make_shared<QueueReceiveEnd>(std::move(table), kind, epoch));
}

std::unique_ptr<ReceiveLane> MakeCpuReceiveLane(std::shared_ptr<ReceiveEnd> end) {
  return std::make_unique<CpuReceiveLane>(std::move(end));
}

}  // namespace penstock
