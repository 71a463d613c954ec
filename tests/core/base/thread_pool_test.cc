#include "core/base/thread_pool.h"

#include <atomic>
#include <chrono>
#include <vector>

#include "gtest/gtest.h"

namespace penstock {
namespace {

TEST(ThreadPool, CoversEveryIndexOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int64_t count : {0, 1, 7, 64, 1000}) {
      for (int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
        pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end) {
          EXPECT_LE(end - begin, std::max(grain, threads == 1 ? count : grain));
          for (int64_t i = begin; i < end; ++i) hits[static_cast<size_t>(i)].fetch_add(1);
        });
        for (const auto& hit : hits) EXPECT_EQ(hit.load(), 1);
      }
    }
  }
}

TEST(ThreadPool, ManyShortJobsInARow) {
  ThreadPool pool(4);
  int64_t expected = 0;
  std::atomic<int64_t> sum{0};
  for (int64_t job = 0; job < 20000; ++job) {
    const int64_t count = job % 9;
    expected += count * (count - 1) / 2;
    pool.ParallelFor(count, 1, [&](int64_t begin, int64_t) { sum.fetch_add(begin); });
  }
  EXPECT_EQ(sum.load(), expected);
}

// A core that is taken away must not stop the others: the caller does the rest alone and waits
// only for the chunk that the late thread holds.
TEST(ThreadPool, ALateThreadHoldsUpOnlyItsChunk) {
  ThreadPool pool(2);
  std::atomic<bool> held{false};
  std::atomic<int> done{0};
  pool.ParallelFor(100, 1, [&](int64_t, int64_t) {
    if (!held.exchange(true)) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    done.fetch_add(1);
  });
  EXPECT_EQ(done.load(), 100);
}

TEST(ThreadPool, WakesUpAfterSleeping) {
  ThreadPool pool(3);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> hits{0};
    pool.ParallelFor(
        50, 2, [&](int64_t begin, int64_t end) { hits.fetch_add(static_cast<int>(end - begin)); });
    EXPECT_EQ(hits.load(), 50);
  }
}

}  // namespace
}  // namespace penstock
