#include "worker/transport/stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <vector>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

TEST(CpuStreamTest, RunsInOrderAndFences) {
  CpuStream stream;
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) stream.Enqueue([&order, i] { order.push_back(i); });
  stream.Fence();
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(CpuStreamTest, EnqueueDoesNotWait) {
  CpuStream stream;
  std::promise<void> release;
  std::atomic<bool> ran{false};
  stream.Enqueue([&] { release.get_future().wait(); });
  stream.Enqueue([&] { ran = true; });
  EXPECT_FALSE(ran);  // and we are here, though the stream is held
  release.set_value();
  stream.Fence();
  EXPECT_TRUE(ran);
}

TEST(CpuStreamTest, KeepsTheFirstFailureUntilReset) {
  CpuStream stream;
  EXPECT_TRUE(IsOk(stream.status()));
  stream.Fail(absl::OkStatus());
  EXPECT_TRUE(IsOk(stream.status()));
  stream.Fail(absl::UnavailableError("first"));
  stream.Fail(absl::InternalError("second"));
  EXPECT_TRUE(Fails(stream.status(), absl::StatusCode::kUnavailable, {"first"}));
  // A failed stream still runs what is enqueued: each task looks for itself.
  bool ran = false;
  stream.Enqueue([&] { ran = true; });
  stream.Fence();
  EXPECT_TRUE(ran);
  stream.Reset();
  EXPECT_TRUE(IsOk(stream.status()));
}

TEST(CpuStreamTest, FailsFromAnyThread) {
  CpuStream stream;
  std::promise<void> failed;
  bool seen = false;
  stream.Enqueue([&] {
    failed.get_future().wait();
    seen = !stream.status().ok();
  });
  stream.Fail(absl::CancelledError("from outside"));
  failed.set_value();
  stream.Fence();
  EXPECT_TRUE(seen);
}

}  // namespace
}  // namespace penstock
