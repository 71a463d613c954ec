#include "core/base/task_thread.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <vector>

namespace penstock {
namespace {

TEST(TaskThreadTest, RunsInOrderOnOneThread) {
  std::vector<int> order;
  std::promise<void> done;
  TaskThread thread;
  for (int i = 0; i < 100; ++i) thread.Enqueue([&order, i] { order.push_back(i); });
  // From its own thread too.
  thread.Enqueue([&] { thread.Enqueue([&] { done.set_value(); }); });
  done.get_future().wait();
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(TaskThreadTest, DropsWhatHasNotBegun) {
  const auto held = std::make_shared<int>(0);
  std::promise<void> begun;
  std::promise<void> release;
  std::thread releaser;
  {
    TaskThread thread;
    thread.Enqueue([&, held] {
      begun.set_value();
      release.get_future().wait();
    });
    begun.get_future().wait();
    thread.Enqueue([held] { ADD_FAILURE() << "ran after the destructor had begun"; });
    releaser = std::thread([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the destructor waits by then
      release.set_value();
    });
  }
  releaser.join();
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace penstock
