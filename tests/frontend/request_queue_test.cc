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

std::vector<std::shared_ptr<TokenSink>> Sinks(size_t count) {
  return std::vector<std::shared_ptr<TokenSink>>(count);
}

TEST(RequestQueue, NamesRequestsAndHandsThemOut) {
  RequestQueue queue({10, 1000}, std::make_shared<Wakeup>());
  EXPECT_EQ(*queue.Push(Request(3, 4), Sinks(1)), 1);
  EXPECT_EQ(*queue.Push(Request(5, 6), Sinks(1)), 2);
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
  ASSERT_TRUE(queue.Push(Request(1, 1), Sinks(1)).ok());
  queue.Take();
  ASSERT_TRUE(queue.Push(Request(1, 1), Sinks(1)).ok());
  const absl::Status full = queue.Push(Request(1, 1), Sinks(1)).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Message(full),
            "the queue is full: 2 requests wait and --max-queued-requests is 2: try again later");
  queue.Take();
  queue.SetBacklog(1, 2);  // one of the two runs now
  EXPECT_TRUE(queue.Push(Request(1, 1), Sinks(1)).ok());
}

TEST(RequestQueue, RefusesMoreTokensThanItsLimit) {
  RequestQueue queue({10, 100}, std::make_shared<Wakeup>());
  ASSERT_TRUE(queue.Push(Request(30, 30), Sinks(1)).ok());
  const absl::Status full = queue.Push(Request(1, 40), Sinks(1)).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Message(full),
            "the queue is full: the waiting requests need 60 tokens, this one 41 and "
            "--max-queued-tokens is 100: try again later");
  queue.Take();
  EXPECT_FALSE(queue.Push(Request(1, 40), Sinks(1)).ok());
  EXPECT_TRUE(queue.Push(Request(1, 39), Sinks(1)).ok());
}

TEST(RequestQueue, ARequestLargerThanTheQueueIsNotAskedToComeBack) {
  RequestQueue queue({10, 100}, std::make_shared<Wakeup>());
  const absl::Status never = queue.Push(Request(61, 40), Sinks(1)).status();
  EXPECT_EQ(never.code(), absl::StatusCode::kOutOfRange);
  EXPECT_NE(Message(never).find("--max-queued-tokens"), std::string::npos);
}

TEST(RequestQueue, TakesTheChoicesOfARequestAllOrNone) {
  RequestQueue queue({4, 100}, std::make_shared<Wakeup>());
  GenerationRequest request = Request(3, 4);
  request.sampling.seed = 9;
  request.sampling.prompt_logprobs = 2;
  EXPECT_EQ(*queue.Push(request, Sinks(3)), 1);
  EXPECT_EQ(queue.num_waiting(), 3);
  EXPECT_EQ(queue.Push(request, Sinks(2)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(queue.num_waiting(), 3);
  EXPECT_EQ(*queue.Push(request, Sinks(1)), 4);
  const RequestQueue::Batch batch = queue.Take();
  ASSERT_EQ(batch.arrivals.size(), 4u);
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(batch.arrivals[i].id, i + 1);
    EXPECT_EQ(batch.arrivals[i].request.prompt, request.prompt);
    EXPECT_EQ(batch.arrivals[i].request.sampling.seed, 9u);
    EXPECT_EQ(batch.arrivals[i].request.sampling.choice, i);
    EXPECT_EQ(batch.arrivals[i].request.sampling.prompt_logprobs, i == 0 ? 2 : -1);
  }
  queue.SetBacklog(0, 0);
  // Never, however empty the queue is.
  EXPECT_EQ(queue.Push(request, Sinks(5)).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(queue.Push(Request(30, 4), Sinks(3)).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(queue.Push(Request(1, INT64_MAX - 1), Sinks(4)).status().code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(queue.Push(Request(1, 24), Sinks(4)).ok());
}

TEST(RequestQueue, KeepsTheFirstReasonForBeingClosed) {
  RequestQueue queue({10, 100}, std::make_shared<Wakeup>());
  ASSERT_TRUE(queue.Push(Request(1, 1), Sinks(1)).ok());
  queue.Close(absl::UnavailableError("first"));
  queue.Close(absl::UnavailableError("second"));
  EXPECT_EQ(Message(queue.Push(Request(1, 1), Sinks(1)).status()), "first");
  EXPECT_EQ(queue.Take().arrivals.size(), 1u);
}

TEST(RequestQueue, TakesFromManyThreads) {
  const auto wakeup = std::make_shared<Wakeup>();
  RequestQueue queue({1000, 100000}, wakeup);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&queue] {
      for (int j = 0; j < 100; ++j) queue.Abort(*queue.Push(Request(2, 3), Sinks(1)));
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
