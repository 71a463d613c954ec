#include "core/tensor/host_mail.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <thread>
#include <vector>

#include "core/tensor/host_peer_memory.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

constexpr int64_t kRow = 16;
constexpr int64_t kRows = 40;
constexpr int64_t kSlots = 8;
constexpr int64_t kRing = 2 * kRows * kRow * 4;
constexpr int64_t kPatience = 60'000'000'000;

// Two stages: the last one's mailbox of rows, the first one's of tokens, each mapped by the other.
class HostMailTest : public ::testing::Test {
 protected:
  HostMailTest() {
    const std::unique_ptr<PeerMemory> memory = MakeHostPeerMemory();
    for (auto [box, there, bytes] :
         {std::tuple{&rows_box_, &rows_there_, MailLayout::kHeaderBytes + kRing},
          std::tuple{&tokens_box_, &tokens_there_, MailLayout::TokenBytes(kSlots)}}) {
      auto made = memory->MakeMailbox(bytes);
      EXPECT_TRUE(IsOk(made));
      *box = *std::move(made);
      auto descriptor = (*box)->Export();
      EXPECT_TRUE(IsOk(descriptor));
      auto mapped = memory->Map(*std::move(descriptor), bytes);
      EXPECT_TRUE(IsOk(mapped));
      *there = *std::move(mapped);
    }
  }

  static Tensor Rows(std::vector<float>& values) {
    return Tensor::Borrow(values.data(), DataType::kF32, {std::ssize(values) / kRow, kRow});
  }
  static Tensor Ids(std::vector<int32_t>& values) {
    return Tensor::Borrow(values.data(), DataType::kI32, {std::ssize(values)});
  }
  static MailOrder Order(uint64_t plan, int64_t rows = 1) {
    MailOrder order;
    order.epoch = 2;
    order.plan = plan;
    order.limit_ns = kPatience;
    order.mailbox_bytes = kRing;
    order.rows_in_bytes = order.rows_out_bytes = rows * kRow * 4;
    return order;
  }
  void Send(uint64_t plan, std::vector<float> values, int64_t offset) {
    MailOrder order = Order(plan, std::ssize(values) / kRow);
    order.rows_out = rows_there_->address();
    order.rows_out_offset = offset;
    first_->Order(order);
    first_->SendRows(Rows(values));
    EXPECT_TRUE(IsOk(first_->Take()));
  }
  absl::StatusOr<MailTimes> Receive(uint64_t plan, std::vector<float>* values,
                                    int64_t limit_ns = kPatience) {
    MailOrder order = Order(plan, std::ssize(*values) / kRow);
    order.rows_in = rows_box_->address();
    order.limit_ns = limit_ns;
    last_->Order(order);
    last_->ReceiveRows(Rows(*values));
    std::vector<int32_t> none(1);
    last_->SendTokens(Ids(none));
    return last_->Take();
  }
  static std::vector<float> Pattern(int64_t rows, uint64_t plan) {
    std::vector<float> values(static_cast<size_t>(rows * kRow));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(plan * 10000 + i);
    }
    return values;
  }

  std::shared_ptr<Mailbox> rows_box_, tokens_box_;
  std::unique_ptr<PeerMailbox> rows_there_, tokens_there_;
  const std::unique_ptr<DeviceMail> first_ = MakeHostMail(100);
  const std::unique_ptr<DeviceMail> last_ = MakeHostMail(100);
};

TEST_F(HostMailTest, RowsComeWhetherTheyAreAwaitedOrThereBefore) {
  uint64_t plan = 60;  // the flags' ring is passed
  for (const int64_t rows : {int64_t{1}, int64_t{7}, kRows}) {
    for (const bool is_awaited : {true, false}) {
      ++plan;
      const int64_t offset = is_awaited ? kRing / 2 : 0;
      std::vector<float> got(static_cast<size_t>(rows * kRow), -1);
      absl::StatusOr<MailTimes> times;
      if (is_awaited) {
        auto receiving = std::async(std::launch::async, [&] { return Receive(plan, &got); });
        while (!last_->waits()) std::this_thread::yield();
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        Send(plan, Pattern(rows, plan), offset);
        times = receiving.get();
        ASSERT_TRUE(IsOk(times));
        EXPECT_GT(times->waited_ns, 4'000'000);
      } else {
        Send(plan, Pattern(rows, plan), offset);
        times = Receive(plan, &got);
        ASSERT_TRUE(IsOk(times));
      }
      EXPECT_EQ(got, Pattern(rows, plan));
      EXPECT_FALSE(last_->waits());
    }
  }
}

TEST_F(HostMailTest, AWaitThatEndsWithoutItsFlagMakesTheStepVoid) {
  std::vector<float> got(kRow);
  EXPECT_TRUE(Fails(Receive(1, &got, 20'000'000).status(), absl::StatusCode::kDeadlineExceeded,
                    {"20 ms", "hangs"}));
  // Nothing is sent until the next epoch.
  std::vector<int32_t> tokens = {5};
  const auto send = [&](uint64_t plan) {
    MailOrder order = Order(plan);
    order.tokens_out = tokens_there_->address();
    last_->Order(order);
    last_->SendTokens(Ids(tokens));
    return *static_cast<const uint64_t*>(tokens_box_->address());
  };
  EXPECT_EQ(send(2), 0u);
  last_->Reset();
  EXPECT_EQ(send(3), uint64_t{2} << 32 | 3);
}

TEST_F(HostMailTest, CancellingEndsWhatWaitsAndWhatWill) {
  std::vector<float> got(kRow);
  auto receiving = std::async(std::launch::async, [&] { return Receive(1, &got, 0).status(); });
  while (!last_->waits()) std::this_thread::yield();
  last_->Cancel();
  EXPECT_TRUE(Fails(receiving.get(), absl::StatusCode::kCancelled, {}));
  EXPECT_TRUE(Fails(Receive(2, &got, 0).status(), absl::StatusCode::kCancelled, {}));
  // What has come is taken all the same.
  Send(3, Pattern(1, 3), 0);
  EXPECT_TRUE(IsOk(Receive(3, &got)));
  EXPECT_EQ(got, Pattern(1, 3));
}

TEST_F(HostMailTest, ATransferOfAnotherSizeOrPlaceIsRefused) {
  std::vector<float> got(kRow);
  Send(1, Pattern(2, 1), 0);
  EXPECT_TRUE(Fails(Receive(1, &got).status(), absl::StatusCode::kInternal, {"another plan"}));
  last_->Reset();
  // The flag is all that says so: nothing may be read there.
  auto* const flag = static_cast<int64_t*>(rows_there_->address()) + 2 * MailLayout::kFlagBytes / 8;
  flag[1] = kRing - 16;
  flag[2] = kRow * 4;
  flag[0] = int64_t{2} << 32 | 2;
  EXPECT_TRUE(Fails(Receive(2, &got).status(), absl::StatusCode::kInternal, {"another plan"}));
}

TEST_F(HostMailTest, TokensComeToThoseWhoseTheyAre) {
  const auto place = [](uint64_t plan, int64_t slot) {
    return static_cast<int32_t>(MailLayout::TokenPlace(plan, slot, kSlots));
  };
  const uint32_t tag = TokenTag(2, 11, 25);
  std::vector<int32_t> ids = {50, 51, 52, 53, 54, 55, 56};
  MailOrder order = Order(70);
  order.tokens_in = tokens_box_->address();
  order.tokens_from = 69;
  order.fed = {{place(69, 2), 0, tag},
               {place(69, 6), 3, tag},
               {place(69, 6), 4, TokenTag(2, 11, 26)},
               {place(69, 6), 5, TokenTag(2, 12, 25)},
               {place(69, 1), 6, tag}};
  auto receiving = std::async(std::launch::async, [&] {
    first_->Order(order);
    first_->ReceiveTokens(Ids(ids));
    return first_->Take().status();
  });
  while (!first_->waits()) std::this_thread::yield();
  MailOrder sending = Order(69);
  sending.tokens_out = tokens_there_->address();
  sending.sent = {{place(69, 6), tag}, {place(69, 2), tag}, {place(69, 1), tag}};
  std::vector<int32_t> tokens = {90, 91, 100};  // the last one is none of the vocabulary's
  last_->Order(sending);
  last_->SendTokens(Ids(tokens));
  EXPECT_TRUE(IsOk(receiving.get()));
  EXPECT_EQ(ids, (std::vector<int32_t>{91, 51, 52, 90, 0, 0, 0}));
}

}  // namespace
}  // namespace penstock
