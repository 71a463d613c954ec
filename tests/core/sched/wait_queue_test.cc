#include "core/sched/wait_queue.h"

#include <gtest/gtest.h>

#include <deque>
#include <vector>

namespace penstock {
namespace {

class WaitQueueTest : public ::testing::Test {
 protected:
  Sequence& Make(int32_t tenant, int32_t priority = 0, bool started = false) {
    Sequence& sequence = sequences_.emplace_back();
    sequence.arrival = static_cast<int64_t>(sequences_.size());
    sequence.tokens = {1, 2, 3};
    sequence.prompt_tokens = 3;
    sequence.max_tokens = 10;
    sequence.tenant = tenant;
    sequence.priority = priority;
    sequence.started = started;
    return sequence;
  }
  // Takes all out, each tenant being charged `cost`; whose they were.
  std::vector<int32_t> Drain(int64_t cost) {
    std::vector<int32_t> tenants;
    while (Sequence* head = queue_.Head()) {
      tenants.push_back(head->tenant);
      queue_.Remove(*head);
      queue_.Charge(head->tenant, cost);
    }
    return tenants;
  }

  std::deque<Sequence> sequences_;
  WaitQueue queue_;
};

TEST_F(WaitQueueTest, CountsWhatWaits) {
  EXPECT_EQ(queue_.Head(), nullptr);
  Sequence& sequence = Make(1);
  queue_.Push(sequence);
  queue_.CheckIntegrity();
  EXPECT_EQ(queue_.Head(), &sequence);
  EXPECT_EQ(queue_.size(), 1);
  EXPECT_EQ(queue_.tokens(), 13);
  EXPECT_EQ(queue_.prompt_tokens(), 3);
  queue_.Remove(sequence);
  EXPECT_EQ(queue_.Head(), nullptr);
  queue_.CheckIntegrity();
  EXPECT_EQ(queue_.size() + queue_.tokens() + queue_.prompt_tokens(), 0);
}

TEST_F(WaitQueueTest, ThePriorityComesBeforeAllElse) {
  Sequence& low = Make(1, -1, true);
  Sequence& high = Make(2, 1);
  queue_.Push(low);
  queue_.Charge(2, 1000);
  queue_.Push(high);
  EXPECT_EQ(queue_.Head(), &high);
}

TEST_F(WaitQueueTest, TenantsTakeTurnsByWhatTheyWereServed) {
  for (int32_t tenant : {1, 1, 1, 1, 2, 2}) queue_.Push(Make(tenant));
  EXPECT_EQ(Drain(10), (std::vector<int32_t>{1, 2, 1, 2, 1, 1}));
}

TEST_F(WaitQueueTest, ThePreemptedOnesOfATenantComeBeforeItsNewOnes) {
  Sequence& fresh = Make(1);
  Sequence& late = Make(1, 0, true);
  Sequence& later = Make(1, 0, true);
  queue_.Push(fresh);
  queue_.Push(later);
  queue_.Push(late);
  EXPECT_EQ(queue_.Head(), &late);
  queue_.Remove(late);
  EXPECT_EQ(queue_.Head(), &later);
}

TEST_F(WaitQueueTest, WhoWasAwayIsLiftedToTheLeastOfThoseThatWait) {
  queue_.Push(Make(1));
  queue_.Push(Make(2));
  queue_.Charge(1, 1000);
  queue_.Charge(2, 500);
  for (int i = 0; i < 3; ++i) queue_.Push(Make(3));
  // Not three times tenant 3: it has 500 from the start, as tenant 2, who came before.
  EXPECT_EQ(Drain(100), (std::vector<int32_t>{2, 3, 3, 3, 1}));
}

TEST_F(WaitQueueTest, WhereNobodyWaitsTheLastOneThatDidIsTheMeasure) {
  Sequence& first = Make(1);
  queue_.Push(first);
  queue_.Remove(first);
  queue_.Charge(1, 1000);  // it runs, and nothing of it waits
  queue_.Push(Make(2));
  queue_.Push(Make(2));
  queue_.Push(Make(1));
  EXPECT_EQ(Drain(100), (std::vector<int32_t>{2, 1, 2}));
}

TEST_F(WaitQueueTest, WhoWasServedMoreIsNotForgottenAmongThousands) {
  Sequence& heavy = Make(7);
  queue_.Push(heavy);
  queue_.Remove(heavy);
  queue_.Charge(7, 1000);
  Sequence& light = Make(8);
  queue_.Push(light);  // lifted to 1000
  queue_.Charge(7, 1000);
  for (int32_t tenant = 100; tenant < 3000; ++tenant) {
    Sequence& passing = Make(tenant);
    queue_.Push(passing);
    queue_.Remove(passing);
  }
  queue_.Push(Make(7));
  queue_.Charge(8, 500);
  EXPECT_EQ(queue_.Head(), &light);
}

}  // namespace
}  // namespace penstock
