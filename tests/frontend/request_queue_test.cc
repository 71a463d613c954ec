#include "frontend/request_queue.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "tests/support/recording_sink.h"

namespace penstock {
namespace {

GenerationRequest Request(int64_t prompt, int64_t max_tokens) {
  GenerationRequest request;
  request.prompt.assign(prompt, 1);
  request.max_tokens = max_tokens;
  return request;
}

TEST(RequestQueue, NamesRequestsAndHandsThemOut) {
  RequestQueue queue({10, 1000}, std::make_shared<Wakeup>());
  EXPECT_EQ(*queue.Push(Request(3, 4), std::make_shared<RecordingSink>()), 1);
  EXPECT_EQ(*queue.Push(Request(5, 6), std::make_shared<RecordingSink>()), 2);
  queue.Abort(1);
  EXPECT_EQ(queue.num_waiting(), 2);

  const RequestQueue::Batch batch = queue.Take();
  ASSERT_EQ(batch.arrivals.size(), 2u);
  EXPECT_EQ(batch.arrivals[1].id, 2);
  EXPECT_EQ(batch.arrivals[1].request.prompt.size(), 5u);
  EXPECT_EQ(batch.aborts, std::vector<RequestId>{1});
  EXPECT_TRUE(queue.Take().arrivals.empty());
  EXPECT_EQ(queue.num_waiting(), 2);  // until the engine says that they run
  queue.SetBacklog(0, 0);
  EXPECT_EQ(queue.num_waiting(), 0);
}

TEST(RequestQueue, RefusesMoreRequestsThanItsLimit) {
  RequestQueue queue({2, 1000}, std::make_shared<Wakeup>());
  ASSERT_TRUE(queue.Push(Request(1, 1), nullptr).ok());
  queue.Take();
  ASSERT_TRUE(queue.Push(Request(1, 1), nullptr).ok());
  const absl::Status full = queue.Push(Request(1, 1), nullptr).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Message(full),
            "the queue is full: 2 requests wait and --max-queued-requests is 2: try again later");
  queue.Take();
  queue.SetBacklog(1, 2);  // one of the two runs now
  EXPECT_TRUE(queue.Push(Request(1, 1), nullptr).ok());
}

TEST(RequestQueue, RefusesMoreTokensThanItsLimit) {
  RequestQueue queue({10, 100}, std::make_shared<Wakeup>());
  ASSERT_TRUE(queue.Push(Request(30, 30), nullptr).ok());
  const absl::Status full = queue.Push(Request(1, 40), nullptr).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Message(full),
            "the queue is full: the waiting requests need 60 tokens, this one 41 and "
            "--max-queued-tokens is 100: try again later");
  queue.Take();
  EXPECT_FALSE(queue.Push(Request(1, 40), nullptr).ok());
  EXPECT_TRUE(queue.Push(Request(1, 39), nullptr).ok());
}

TEST(RequestQueue, ARequestLargerThanTheQueueIsNotAskedToComeBack) {
  RequestQueue queue({10, 100}, std::make_shared<Wakeup>());
  const absl::Status never = queue.Push(Request(61, 40), nullptr).status();
  EXPECT_EQ(never.code(), absl::StatusCode::kOutOfRange);
  EXPECT_NE(Message(never).find("--max-queued-tokens"), std::string::npos);
}

TEST(RequestQueue, KeepsTheFirstReasonForBeingClosed) {
  RequestQueue queue({10, 100}, std::make_shared<Wakeup>());
  ASSERT_TRUE(queue.Push(Request(1, 1), nullptr).ok());
  queue.Close(absl::UnavailableError("first"));
  queue.Close(absl::UnavailableError("second"));
  EXPECT_EQ(Message(queue.Push(Request(1, 1), nullptr).status()), "first");
  EXPECT_EQ(queue.Take().arrivals.size(), 1u);
}

TEST(RequestQueue, TakesFromManyThreads) {
  const auto wakeup = std::make_shared<Wakeup>();
  RequestQueue queue({1000, 100000}, wakeup);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&queue] {
      for (int j = 0; j < 100; ++j) queue.Abort(*queue.Push(Request(2, 3), nullptr));
    });
  }
  std::set<RequestId> arrived;
  size_t aborts = 0;
  while (aborts < 400) {
    wakeup->Wait(absl::InfiniteDuration());
    const RequestQueue::Batch batch = queue.Take();
    for (const RequestQueue::Arrival& arrival : batch.arrivals) arrived.insert(arrival.id);
    for (RequestId id : batch.aborts) EXPECT_EQ(arrived.count(id), 1u);
    aborts += batch.aborts.size();
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(arrived.size(), 400u);
}

TEST(Wakeup, ANotifyBeforeTheWaitIsNotLost) {
  Wakeup wakeup;
  wakeup.Notify();
  wakeup.Wait(absl::InfiniteDuration());
  wakeup.Wait(absl::Microseconds(1));
  wakeup.Wait(-absl::InfiniteDuration());
}

}  // namespace
}  // namespace penstock
