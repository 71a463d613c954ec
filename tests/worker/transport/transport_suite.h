// What every transport must do. A kind's test includes this and instantiates it:
//   INSTANTIATE_TEST_SUITE_P(Local, TransportTest, ::testing::Values(kind), KindName);
// and FaultTest in the same way.
#pragma once

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/faulty_transport.h"
#include "tests/support/status_matchers.h"
#include "tests/support/transport_ends.h"

namespace penstock::testing {

inline std::string KindName(const ::testing::TestParamInfo<TransportKind>& info) {
  return info.param.name;
}

class TransportTest : public ::testing::TestWithParam<TransportKind> {
 protected:
  void SetUp() override {
    if (!GetParam().available()) GTEST_SKIP();
  }
  // Two stages, and a lane of rows from a to b.
  void Start(const TransportOptions& options = {}) {
    a_ = make_(options);
    b_ = make_(options);
    Join(1);
  }
  void Join(uint32_t epoch) {
    receiver_.lane = b_->transport().Open(LaneKind::kRows, epoch);
    sender_.lane = Connected(epoch);
  }
  std::unique_ptr<SendLane> Connected(uint32_t epoch) {
    absl::StatusOr<std::unique_ptr<SendLane>> lane =
        a_->transport().Connect(b_->transport().address(), LaneKind::kRows, epoch, kPatience);
    EXPECT_TRUE(IsOk(lane));
    return lane.ok() ? *std::move(lane) : nullptr;
  }

  const MakeEndpoint make_ = GetParam().make_world();
  const Shape shape_{3, 577};
  std::unique_ptr<Endpoint> a_, b_;
  Sender sender_;
  Receiver receiver_;
};

TEST_P(TransportTest, KeepsOrderAndTakesBytesWhenTheStreamGetsThere) {
  Start();
  constexpr uint64_t kPlans = 100;
  // One tensor, filled on the stream for each send, as a stage's activations are.
  Tensor rows = Make(DataType::kF32, shape_);
  for (uint64_t plan = 1; plan <= kPlans; ++plan) {
    sender_.stream.Enqueue([&rows, plan] { FillPattern(rows, plan); });
    sender_.Send(rows, plan);
  }
  for (uint64_t plan = 1; plan <= kPlans; ++plan) {
    ASSERT_TRUE(IsOk(receiver_.ReceivePattern(shape_, plan))) << plan;
  }
  sender_.stream.Fence();
  EXPECT_TRUE(IsOk(sender_.stream.status()));
}

TEST_P(TransportTest, CarriesOneRowToThousands) {
  Start();
  uint64_t plan = 0;
  // From one element to 32 MB; none but the last two fills its last chunk.
  for (const Shape& shape : {Shape{1}, Shape{1, 4096}, Shape{3, 4096}, Shape{65, 4095},
                             Shape{129, 4097}, Shape{64, 4096}, Shape{2048, 4096}}) {
    ++plan;
    sender_.Send(Pattern(shape, plan), plan);
    ASSERT_TRUE(IsOk(receiver_.ReceivePattern(shape, plan))) << shape.ToString();
  }
}

TEST_P(TransportTest, SenderWaitsAtTheWindow) {
  Start({.window = 2});
  for (uint64_t plan = 1; plan <= 6; ++plan) sender_.Send(Pattern(shape_, plan), plan);
  for (int64_t taken = 0; taken < 4; ++taken) {
    WaitUntil([&] { return sender_.sent >= 2 + taken; });
    absl::SleepFor(absl::Milliseconds(20));
    EXPECT_EQ(sender_.sent, 2 + taken);
    ASSERT_TRUE(IsOk(receiver_.ReceivePattern(shape_, static_cast<uint64_t>(taken + 1))));
  }
  sender_.stream.Fence();
  EXPECT_TRUE(IsOk(sender_.stream.status()));
}

TEST_P(TransportTest, ReceiveHasADeadline) {
  Start();
  EXPECT_TRUE(Fails(receiver_.ReceivePattern(shape_, 7, kSoon), absl::StatusCode::kDeadlineExceeded,
                    {"transfer 7", "50ms"}));
  EXPECT_GE(receiver_.lane->waited_ns(), absl::ToInt64Nanoseconds(kSoon));
  // The stream's failure has not spoilt the lane.
  receiver_.stream.Reset();
  sender_.Send(Pattern(shape_, 7), 7);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 7)));
}

TEST_P(TransportTest, SendHasADeadline) {
  Start({.window = 1});
  sender_.Send(Pattern(shape_, 1), 1);
  sender_.Send(Pattern(shape_, 2), 2, kSoon);
  sender_.stream.Fence();
  EXPECT_TRUE(
      Fails(sender_.stream.status(), absl::StatusCode::kDeadlineExceeded, {"no room for 50ms"}));
  EXPECT_EQ(sender_.sent, 1);
}

TEST_P(TransportTest, AFailedStreamNeitherSendsNorWaits) {
  Start();
  sender_.stream.Fail(absl::InternalError("void"));
  sender_.Send(Pattern(shape_, 1), 1);
  sender_.stream.Fence();
  sender_.stream.Reset();
  sender_.Send(Pattern(shape_, 2), 2);
  // Transfer 1 would come first: it is no transfer 0.
  EXPECT_TRUE(Fails(receiver_.ReceivePattern(shape_, 0), absl::StatusCode::kInternal, {"got 2"}));
  // The stream has failed now: no wait for what never comes.
  receiver_.Receive(Poisoned(shape_), 3, absl::InfiniteDuration());
  receiver_.stream.Fence();
  EXPECT_EQ(receiver_.lane->waited_ns(), 0);
}

TEST_P(TransportTest, AReceiverThatGoesFreesTheSender) {
  Start({.window = 1});
  sender_.Send(Pattern(shape_, 1), 1);
  sender_.Send(Pattern(shape_, 2), 2, absl::InfiniteDuration());
  WaitUntil([&] { return sender_.sent == 1; });
  receiver_.lane.reset();
  sender_.stream.Fence();
  EXPECT_TRUE(Fails(sender_.stream.status(), absl::StatusCode::kUnavailable, {"stage"}));
}

TEST_P(TransportTest, ASenderThatGoesFreesTheReceiver) {
  Start();
  receiver_.Receive(Poisoned(shape_), 1, absl::InfiniteDuration());
  sender_.lane.reset();
  receiver_.stream.Fence();
  EXPECT_TRUE(Fails(receiver_.stream.status(), absl::StatusCode::kUnavailable, {"stage"}));
}

TEST_P(TransportTest, CancelFreesAReceiveAtOnce) {
  Start();
  receiver_.Receive(Poisoned(shape_), 1, absl::InfiniteDuration());
  receiver_.lane->Cancel();
  receiver_.stream.Fence();
  EXPECT_TRUE(Fails(receiver_.stream.status(), absl::StatusCode::kCancelled, {}));
  receiver_.stream.Reset();
  EXPECT_TRUE(Fails(receiver_.ReceivePattern(shape_, 1, absl::InfiniteDuration()),
                    absl::StatusCode::kCancelled, {}));
}

TEST_P(TransportTest, CancelFreesASendAtOnce) {
  Start({.window = 1});
  sender_.Send(Pattern(shape_, 1), 1);
  sender_.Send(Pattern(shape_, 2), 2, absl::InfiniteDuration());
  WaitUntil([&] { return sender_.sent == 1; });
  sender_.lane->Cancel();
  sender_.stream.Fence();
  EXPECT_TRUE(Fails(sender_.stream.status(), absl::StatusCode::kCancelled, {}));
  sender_.stream.Reset();
  sender_.Send(Pattern(shape_, 3), 3, absl::InfiniteDuration());
  sender_.stream.Fence();
  EXPECT_TRUE(Fails(sender_.stream.status(), absl::StatusCode::kCancelled, {}));
}

TEST_P(TransportTest, LanesMayGoBeforeWhatIsOnTheirStreams) {
  Start();
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  for (CpuStream* stream : {&sender_.stream, &receiver_.stream}) {
    stream->Enqueue([released] { released.wait(); });
  }
  sender_.Send(Pattern(shape_, 1), 1);
  receiver_.Receive(Poisoned(shape_), 1);
  sender_.lane.reset();
  receiver_.lane.reset();
  release.set_value();
  sender_.stream.Fence();
  receiver_.stream.Fence();
  EXPECT_TRUE(Fails(sender_.stream.status(), absl::StatusCode::kCancelled, {}));
  EXPECT_TRUE(Fails(receiver_.stream.status(), absl::StatusCode::kCancelled, {}));
}

TEST_P(TransportTest, ConnectMayComeBeforeOpen) {
  a_ = make_({});
  b_ = make_({});
  auto connected = std::async(std::launch::async, [&] { return Connected(1); });
  absl::SleepFor(absl::Milliseconds(20));
  receiver_.lane = b_->transport().Open(LaneKind::kRows, 1);
  sender_.lane = connected.get();
  ASSERT_NE(sender_.lane, nullptr);
  sender_.Send(Pattern(shape_, 1), 1);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 1)));
}

TEST_P(TransportTest, ConnectHasADeadline) {
  a_ = make_({});
  b_ = make_({});
  EXPECT_TRUE(Fails(a_->transport().Connect(b_->transport().address(), LaneKind::kRows, 1, kSoon),
                    absl::StatusCode::kDeadlineExceeded, {b_->transport().address(), "opened"}));
  // Other kinds and epochs are other lanes.
  const auto tokens = b_->transport().Open(LaneKind::kTokens, 1);
  EXPECT_TRUE(Fails(a_->transport().Connect(b_->transport().address(), LaneKind::kRows, 1, kSoon),
                    absl::StatusCode::kDeadlineExceeded, {}));
  Join(2);
  sender_.Send(Pattern(shape_, 1), 1);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 1)));
}

TEST_P(TransportTest, ALaneHasOneSender) {
  Start();
  EXPECT_TRUE(
      Fails(a_->transport().Connect(b_->transport().address(), LaneKind::kRows, 1, kPatience),
            absl::StatusCode::kAlreadyExists, {"epoch 1"}));
  sender_.Send(Pattern(shape_, 1), 1);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 1)));
}

TEST_P(TransportTest, RefusesAnEpochThatIsOver) {
  Start();
  Transport& transport = a_->transport();
  const std::string address = b_->transport().address();
  receiver_.lane.reset();
  EXPECT_TRUE(Fails(transport.Connect(address, LaneKind::kRows, 1, kPatience),
                    absl::StatusCode::kFailedPrecondition, {"epoch 1 is over"}));
  receiver_.lane = b_->transport().Open(LaneKind::kRows, 5);
  EXPECT_TRUE(Fails(transport.Connect(address, LaneKind::kRows, 4, kPatience),
                    absl::StatusCode::kFailedPrecondition, {"epoch 4 is over", "epoch 5"}));
  // One that waits is told when its epoch is passed over.
  auto waits = std::async(std::launch::async, [&] {
    return transport.Connect(address, LaneKind::kRows, 6, kPatience).status();
  });
  absl::SleepFor(absl::Milliseconds(20));
  receiver_.lane.reset();
  receiver_.lane = b_->transport().Open(LaneKind::kRows, 7);
  EXPECT_TRUE(Fails(waits.get(), absl::StatusCode::kFailedPrecondition, {"epoch 6 is over"}));
}

TEST_P(TransportTest, SeveralLanesAtOnce) {
  a_ = make_({});
  b_ = make_({});
  struct Lane {
    Sender sender;
    Receiver receiver;
  };
  std::vector<std::unique_ptr<Lane>> lanes;
  for (const auto& [from, to] : {std::pair(a_.get(), b_.get()), std::pair(b_.get(), a_.get())}) {
    for (const LaneKind kind : {LaneKind::kRows, LaneKind::kTokens}) {
      Lane& lane = *lanes.emplace_back(std::make_unique<Lane>());
      lane.receiver.lane = to->transport().Open(kind, 1);
      auto connected = from->transport().Connect(to->transport().address(), kind, 1, kPatience);
      ASSERT_TRUE(IsOk(connected));
      lane.sender.lane = *std::move(connected);
    }
  }
  constexpr uint64_t kPlans = 50;
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < lanes.size(); ++i) {
    Lane& lane = *lanes[i];
    for (uint64_t plan = 1; plan <= kPlans; ++plan) {
      // Nobody else's pattern: each lane has numbers of its own.
      lane.sender.Send(Pattern(shape_, plan * 10 + i), plan * 10 + i);
    }
    threads.emplace_back([&lane, i, this] {
      for (uint64_t plan = 1; plan <= kPlans; ++plan) {
        EXPECT_TRUE(IsOk(lane.receiver.ReceivePattern(shape_, plan * 10 + i)));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_P(TransportTest, ASenderOutlivesItsPeerAndReachesTheNext) {
  Start({.window = 1});
  Sender old;
  old.lane = std::move(sender_.lane);
  old.Send(Pattern(shape_, 1), 1);
  old.Send(Pattern(shape_, 2), 2, absl::InfiniteDuration());
  WaitUntil([&] { return old.sent == 1; });
  receiver_.lane.reset();
  b_.reset();
  old.stream.Fence();
  EXPECT_TRUE(Fails(old.stream.status(), absl::StatusCode::kUnavailable, {}));
  b_ = make_({});
  Join(2);
  sender_.Send(Pattern(shape_, 3), 3);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 3)));
}

TEST_P(TransportTest, AReceiverOutlivesItsPeerAndHearsTheNext) {
  Start();
  receiver_.Receive(Poisoned(shape_), 1, absl::InfiniteDuration());
  sender_.lane.reset();
  a_.reset();
  receiver_.stream.Fence();
  EXPECT_TRUE(Fails(receiver_.stream.status(), absl::StatusCode::kUnavailable, {}));
  receiver_.stream.Reset();
  receiver_.lane.reset();
  a_ = make_({});
  Join(2);
  sender_.Send(Pattern(shape_, 1), 1);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 1)));
}

TEST_P(TransportTest, NobodyAtTheAddress) {
  Start();
  const std::string address = b_->transport().address();
  receiver_.lane.reset();
  b_.reset();
  EXPECT_TRUE(Fails(a_->transport().Connect(address, LaneKind::kRows, 2, kPatience),
                    absl::StatusCode::kUnavailable, {address}));
}

TEST_P(TransportTest, LanesOutliveTheirTransports) {
  Start();
  sender_.Send(Pattern(shape_, 1), 1);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 1)));
  a_.reset();
  b_.reset();
  sender_.lane.reset();
  receiver_.lane.reset();
}

TEST_P(TransportTest, AnotherSizeOrNumberIsAMistake) {
  Start();
  sender_.Send(Pattern(shape_, 1), 1);
  EXPECT_TRUE(Fails(receiver_.ReceivePattern({4, 577}, 1), absl::StatusCode::kInternal,
                    {"9232 bytes", "of 6924"}));
  receiver_.stream.Reset();
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 1)));
  sender_.Send(Pattern(shape_, 5), 5);
  EXPECT_TRUE(Fails(receiver_.ReceivePattern(shape_, 4), absl::StatusCode::kInternal,
                    {"expected transfer 4", "got 5"}));
}

TEST_P(TransportTest, LowerNumbersArePassedOver) {
  Start({.window = 2});
  for (uint64_t plan = 1; plan <= 5; ++plan) sender_.Send(Pattern(shape_, plan), plan);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 5)));
  sender_.stream.Fence();
  EXPECT_TRUE(IsOk(sender_.stream.status()));
}

TEST_P(TransportTest, RefusesToSendMoreThanTheLimit) {
  Start({.max_transfer_bytes = 6924});
  sender_.Send(Pattern(shape_, 1), 1);
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 1)));
  sender_.Send(Pattern({3, 578}, 2), 2);
  sender_.stream.Fence();
  EXPECT_TRUE(Fails(sender_.stream.status(), absl::StatusCode::kResourceExhausted,
                    {"6936 bytes", "limit is 6924"}));
}

// The faults that other tests build on are seen as what they are.
class FaultTest : public TransportTest {
 protected:
  // Sends transfers 1 to 4 through a transport with this fault at the third; receives the first
  // two.
  void StartWith(const Fault& fault) {
    a_ = make_({});
    b_ = make_({});
    receiver_.lane = b_->transport().Open(LaneKind::kRows, 1);
    FaultyTransport faulty(a_->transport(), fault);
    auto connected = faulty.Connect(b_->transport().address(), LaneKind::kRows, 1, kPatience);
    ASSERT_TRUE(IsOk(connected));
    sender_.lane = *std::move(connected);
    for (uint64_t plan = 1; plan <= 2; ++plan) {
      sender_.Send(Pattern(shape_, plan), plan);
      ASSERT_TRUE(IsOk(receiver_.ReceivePattern(shape_, plan)));
    }
    for (uint64_t plan = 3; plan <= 4; ++plan) sender_.Send(Pattern(shape_, plan), plan);
  }
};

TEST_P(FaultTest, Delay) {
  const absl::Time begin = absl::Now();
  StartWith({Fault::Kind::kDelay, 3, absl::Milliseconds(100)});
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 3)));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(100));
  EXPECT_TRUE(IsOk(receiver_.ReceivePattern(shape_, 4)));
}

TEST_P(FaultTest, Hang) {
  StartWith({Fault::Kind::kHang, 3});
  EXPECT_TRUE(Fails(receiver_.ReceivePattern(shape_, 3, kSoon), absl::StatusCode::kDeadlineExceeded,
                    {"transfer 3"}));
}

TEST_P(FaultTest, Die) {
  StartWith({Fault::Kind::kDie, 3});
  EXPECT_TRUE(Fails(receiver_.ReceivePattern(shape_, 3, absl::InfiniteDuration()),
                    absl::StatusCode::kUnavailable, {}));
}

TEST_P(FaultTest, WrongNumber) {
  StartWith({Fault::Kind::kWrongNumber, 3});
  EXPECT_TRUE(Fails(receiver_.ReceivePattern(shape_, 3), absl::StatusCode::kInternal,
                    {"expected transfer 3", "got 4"}));
}

}  // namespace penstock::testing
