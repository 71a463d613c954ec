// What tests of transports are made of: a stage's door (Endpoint), a sending and a receiving end
// with a stream of their own, tensors whose bytes tell which transfer they are.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "core/tensor/tensor.h"
#include "tests/support/tensors.h"
#include "worker/transport/transport.h"

namespace penstock::testing {

// For what must succeed, and would hang otherwise.
inline constexpr absl::Duration kPatience = absl::Seconds(120);
// For waits that must run out.
inline constexpr absl::Duration kSoon = absl::Milliseconds(50);

// What transfer_peer.cc sends and takes.
inline const Shape kPeerShape{64, 1024};

// A stage as far as transports see it; destroying it is the stage's death.
class Endpoint {
 public:
  virtual ~Endpoint() = default;
  virtual Transport& transport() = 0;
};
using MakeEndpoint = std::function<std::unique_ptr<Endpoint>(const TransportOptions&)>;

// A kind of transport. A world is where endpoints can reach each other.
struct TransportKind {
  std::string name;
  std::function<MakeEndpoint()> make_world;
  bool (*available)() = [] { return true; };  // on this machine; else its tests are skipped
};

inline void WaitUntil(const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + kPatience;
  while (!condition() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(condition());
}

inline uint8_t PatternByte(uint64_t plan, int64_t i) {
  return static_cast<uint8_t>((static_cast<uint64_t>(i) * 2654435761u + plan * 97) >> 8);
}
inline void FillPattern(Tensor& tensor, uint64_t plan) {
  auto* bytes = static_cast<uint8_t*>(tensor.raw());
  for (int64_t i = 0; i < tensor.bytes(); ++i) bytes[i] = PatternByte(plan, i);
}
inline Tensor Pattern(const Shape& shape, uint64_t plan) {
  Tensor tensor = Make(DataType::kF32, shape);
  FillPattern(tensor, plan);
  return tensor;
}
inline bool HoldsPattern(const Tensor& tensor, uint64_t plan) {
  const auto* bytes = static_cast<const uint8_t*>(tensor.raw());
  for (int64_t i = 0; i < tensor.bytes(); ++i) {
    if (bytes[i] != PatternByte(plan, i)) return false;
  }
  return true;
}

// The lane goes first, and frees its stream.
struct Sender {
  std::atomic<int64_t> sent{0};
  CpuStream stream;
  std::unique_ptr<SendLane> lane;

  void Send(const Tensor& tensor, uint64_t plan, absl::Duration limit = kPatience) {
    lane->Send(stream, tensor, plan, limit);
    stream.Enqueue([this] { sent += stream.status().ok() ? 1 : 0; });
  }
};

struct Receiver {
  CpuStream stream;
  std::unique_ptr<ReceiveLane> lane;

  void Receive(const Tensor& tensor, uint64_t plan, absl::Duration limit = kPatience) {
    lane->Receive(stream, tensor, plan, limit);
  }
  // Receives it now: the stream's status, or why its bytes are wrong.
  absl::Status ReceivePattern(const Shape& shape, uint64_t plan, absl::Duration limit = kPatience) {
    const Tensor tensor = Poisoned(shape);
    Receive(tensor, plan, limit);
    stream.Fence();
    PENSTOCK_RETURN_IF_ERROR(stream.status());
    return HoldsPattern(tensor, plan) ? absl::OkStatus() : absl::DataLossError("other bytes");
  }
};

}  // namespace penstock::testing
