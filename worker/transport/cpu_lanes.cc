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
  std::shared_ptr<ReceiveQueue> queue;
  int64_t waited_ns = 0;  // the stream's own
  std::mutex running;
};

class CpuReceiveLane final : public ReceiveLane {
 public:
  CpuReceiveLane(std::shared_ptr<LaneTable> table, LaneKind kind, uint32_t epoch)
      : table_(std::move(table)), kind_(kind) {
    state_->queue = table_->Open(kind, epoch);
  }
  ~CpuReceiveLane() override {
    Cancel();
    std::lock_guard<std::mutex> lock(state_->running);
    table_->Close(kind_);
  }

  void Receive(Stream& stream, const Tensor& tensor, uint64_t plan, absl::Duration limit) override {
    PENSTOCK_CHECK(tensor.is_contiguous());
    auto& cpu_stream = static_cast<CpuStream&>(stream);
    cpu_stream.Enqueue([state = state_, &cpu_stream, tensor = tensor, plan, limit]() mutable {
      std::lock_guard<std::mutex> lock(state->running);
      state->waited_ns = 0;
      if (!cpu_stream.status().ok()) return;
      const auto begin = std::chrono::steady_clock::now();
      cpu_stream.Fail(state->queue->Take(
          plan, {static_cast<std::byte*>(tensor.raw()), static_cast<size_t>(tensor.bytes())},
          Deadline(limit)));
      state->waited_ns = std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count();
    });
  }

  int64_t waited_ns() const override { return state_->waited_ns; }
  void Cancel() override { state_->queue->Cancel(); }

 private:
  const std::shared_ptr<ReceiveState> state_ = std::make_shared<ReceiveState>();
  const std::shared_ptr<LaneTable> table_;
  const LaneKind kind_;
};

}  // namespace

std::unique_ptr<SendLane> MakeCpuSendLane(std::shared_ptr<SendEnd> end,
                                          const TransportOptions& options) {
  return std::make_unique<CpuSendLane>(std::move(end), options);
}

std::unique_ptr<ReceiveLane> MakeCpuReceiveLane(std::shared_ptr<LaneTable> table, LaneKind kind,
                                                uint32_t epoch) {
  return std::make_unique<CpuReceiveLane>(std::move(table), kind, epoch);
}

}  // namespace penstock
