// A transport with a fault: what its stage sends is late, lost, wrong, or ends, from a chosen
// transfer of each lane on. Receiving is sound.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "worker/transport/transport.h"

namespace penstock::testing {

struct Fault {
  enum class Kind : uint8_t {
    kNone,
    kDelay,        // this one comes `delay` later, and so holds up its stream
    kHang,         // neither this one nor a later one leaves, and nobody is told
    kDie,          // instead of this one the lane goes
    kWrongNumber,  // this one has the next one's number
  };
  Kind kind = Kind::kNone;
  int64_t at = 1;  // transfer, from 1
  absl::Duration delay = absl::ZeroDuration();
};

class FaultySendLane final : public SendLane {
 public:
  FaultySendLane(std::unique_ptr<SendLane> inner, const Fault& fault)
      : inner_(std::move(inner)), fault_(fault) {}

  void Send(Stream& stream, const Tensor& tensor, uint64_t plan, absl::Duration limit) override {
    const bool now = ++sent_ == fault_.at;
    switch (fault_.kind) {
      case Fault::Kind::kNone:
        break;
      case Fault::Kind::kDelay:
        if (now) {
          static_cast<CpuStream&>(stream).Enqueue(
              [delay = fault_.delay] { absl::SleepFor(delay); });
        }
        break;
      case Fault::Kind::kHang:
        if (sent_ >= fault_.at) return;
        break;
      case Fault::Kind::kDie:
        // After what was sent before has left.
        if (inner_ != nullptr && now) {
          static_cast<CpuStream&>(stream).Enqueue([lane = std::move(inner_)] {});
        }
        if (sent_ >= fault_.at) return;
        break;
      case Fault::Kind::kWrongNumber:
        if (now) ++plan;
        break;
    }
    inner_->Send(stream, tensor, plan, limit);
  }
  absl::Status SendNow(const Tensor& tensor, uint64_t plan, absl::Duration limit) override {
    return inner_->SendNow(tensor, plan, limit);
  }
  absl::Status status() const override { return inner_->status(); }
  void Cancel() override {
    if (inner_ != nullptr) inner_->Cancel();
  }

 private:
  std::shared_ptr<SendLane> inner_;
  const Fault fault_;
  int64_t sent_ = 0;
};

class FaultyTransport final : public Transport {
 public:
  FaultyTransport(Transport& inner, const Fault& fault) : inner_(inner), fault_(fault) {}

  std::string address() const override { return inner_.address(); }
  std::unique_ptr<ReceiveLane> Open(LaneKind kind, uint32_t epoch) override {
    return inner_.Open(kind, epoch);
  }
  absl::StatusOr<std::unique_ptr<SendLane>> Connect(const std::string& address, LaneKind kind,
                                                    uint32_t epoch, absl::Duration limit) override {
    PENSTOCK_ASSIGN_OR_RETURN(auto lane, inner_.Connect(address, kind, epoch, limit));
    return std::make_unique<FaultySendLane>(std::move(lane), fault_);
  }

 private:
  Transport& inner_;
  const Fault fault_;
};

}  // namespace penstock::testing
