#include "worker/transport/receive_queue.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <string>
#include <vector>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

const Deadline kNow{absl::ZeroDuration()};

class CountingSender final : public LaneSender {
 public:
  void OnOpened(const std::shared_ptr<ReceiveQueue>&) override {}
  void OnRefused(const absl::Status&) override {}
  void OnRoom() override { ++room; }
  void OnClosed() override { ++closed; }
  int room = 0;
  int closed = 0;
};

class ReceiveQueueTest : public ::testing::Test {
 protected:
  ReceiveQueueTest() { queue_.Attach(sender_); }

  absl::StatusOr<std::string> Take(uint64_t plan, size_t size) {
    std::string bytes(size, '?');
    PENSTOCK_RETURN_IF_ERROR(queue_.Take(
        plan, std::as_writable_bytes(std::span<char>(bytes.data(), bytes.size())), kNow));
    return bytes;
  }

  ReceiveQueue queue_{TransportOptions{.window = 2, .max_transfer_bytes = 100}};
  const std::shared_ptr<CountingSender> sender_ = std::make_shared<CountingSender>();
};

TEST_F(ReceiveQueueTest, PutsPiecesTogether) {
  EXPECT_TRUE(IsOk(queue_.Add(1, 6, 0, "abc")));
  EXPECT_TRUE(Fails(Take(1, 6), absl::StatusCode::kDeadlineExceeded, {"transfer 1"}));
  EXPECT_TRUE(IsOk(queue_.Add(1, 6, 3, "d")));
  EXPECT_TRUE(IsOk(queue_.Add(1, 6, 4, "ef")));
  EXPECT_TRUE(IsOk(queue_.Add(2, 0, 0, "")));
  EXPECT_EQ(sender_->room, 0);
  EXPECT_EQ(*Take(1, 6), "abcdef");
  EXPECT_EQ(*Take(2, 0), "");
  EXPECT_EQ(sender_->room, 2);
}

TEST_F(ReceiveQueueTest, RefusesPiecesThatDoNotFit) {
  struct Case {
    uint64_t plan;
    int64_t total, offset;
    std::string piece;
    const char* word;
  };
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const std::vector<Case> first = {
      {1, 101, 0, "x", "more than 100 bytes"}, {1, kMost, 0, "x", "more than 100 bytes"},
      {1, -1, 0, "", "more than 100 bytes"},   {1, 10, 1, "x", "begin at 0"},
      {1, 10, -1, "x", "begin at 0"},          {1, 2, 0, "xyz", "beyond the end"},
      {1, 0, 0, "x", "beyond the end"},        {1, 10, 0, "", "empty"},
  };
  const std::vector<Case> second = {
      {2, 10, 3, "x", "transfer 1 is not whole"},
      {1, 11, 3, "x", "transfer 1 is not whole"},
      {1, 10, 2, "x", "follow"},
      {1, 10, 4, "x", "follow"},
      {1, 10, 0, "x", "follow"},
      {1, 10, kMost, "x", "follow"},
      {1, 10, 3, std::string(8, 'x'), "beyond the end"},
      {1, 10, 3, "", "empty"},
  };
  for (const auto& [cases, begun] : {std::pair(&first, false), std::pair(&second, true)}) {
    for (const Case& each : *cases) {
      ReceiveQueue queue(TransportOptions{.window = 2, .max_transfer_bytes = 100});
      if (begun) {
        ASSERT_TRUE(IsOk(queue.Add(1, 10, 0, "abc")));
      }
      EXPECT_TRUE(Fails(queue.Add(each.plan, each.total, each.offset, each.piece),
                        absl::StatusCode::kInternal, {each.word}));
      // The receiver hears of it, and nothing repairs it.
      EXPECT_TRUE(Fails(queue.Add(1, 3, 0, "abc"), absl::StatusCode::kInternal, {each.word}));
      std::array<std::byte, 3> bytes;
      EXPECT_TRUE(Fails(queue.Take(1, bytes, kNow), absl::StatusCode::kInternal, {each.word}));
    }
  }
}

TEST_F(ReceiveQueueTest, RefusesMoreThanTheWindow) {
  EXPECT_TRUE(IsOk(queue_.Add(1, 1, 0, "a")));
  EXPECT_TRUE(IsOk(queue_.Add(2, 1, 0, "b")));
  EXPECT_TRUE(Fails(queue_.Add(3, 1, 0, "c"), absl::StatusCode::kInternal, {"room for 2"}));
  // What came before the mistake is good.
  EXPECT_EQ(*Take(1, 1), "a");
  EXPECT_EQ(*Take(2, 1), "b");
  EXPECT_TRUE(Fails(Take(3, 1), absl::StatusCode::kInternal, {"room for 2"}));
}

TEST_F(ReceiveQueueTest, WhatCameWholeOutlivesItsSender) {
  EXPECT_TRUE(IsOk(queue_.Add(1, 1, 0, "a")));
  EXPECT_TRUE(IsOk(queue_.Add(2, 2, 0, "b")));
  queue_.SenderGone(absl::UnavailableError("gone"));
  EXPECT_EQ(*Take(1, 1), "a");
  EXPECT_TRUE(Fails(Take(2, 2), absl::StatusCode::kUnavailable, {"gone"}));
  EXPECT_EQ(sender_->room, 0);  // nobody is told any more
  EXPECT_EQ(sender_.use_count(), 1);
}

TEST_F(ReceiveQueueTest, CloseTellsTheSenderAndDropsWhatIsHere) {
  EXPECT_TRUE(IsOk(queue_.Add(1, 1, 0, "a")));
  queue_.Close();
  EXPECT_EQ(sender_->closed, 1);
  EXPECT_EQ(sender_.use_count(), 1);
  EXPECT_TRUE(Fails(Take(1, 1), absl::StatusCode::kCancelled, {}));
  // The sender may not know yet.
  EXPECT_TRUE(IsOk(queue_.Add(2, 1, 0, "b")));
}

}  // namespace
}  // namespace penstock
