#include "core/sched/kv_forecast.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

TEST(KvForecast, ThePeakIsJustBeforeAnEnd) {
  KvForecast forecast;
  EXPECT_EQ(forecast.PeakBlocks(), 0);
  forecast.Add(64 * 4, 64 * 2);
  EXPECT_EQ(forecast.PeakBlocks(), 6);
  forecast.Add(64 * 8, 0);  // ends at once: 4 + 8 and half a block each
  EXPECT_EQ(forecast.PeakBlocks(), 13);
  forecast.Add(0, 64 * 6);  // grows while the first does, then alone to 6
  EXPECT_EQ(forecast.PeakBlocks(), 13);
  forecast.Clear();
  EXPECT_EQ(forecast.PeakBlocks(), 0);
}

// What such a sequence had still to come was counted twice: one that had been preempted three times
// and needs more than the pool that way waited for ever, alone (a simulation's seed 485).
TEST(KvForecast, OneThatHasItsWholeNeedDoesNotGrow) {
  KvForecast forecast;
  forecast.AddWhole(64 * 7 - 10, 64 * 4);
  EXPECT_EQ(forecast.PeakBlocks(), 7);
  forecast.Add(64, 64);  // ends first
  EXPECT_EQ(forecast.PeakBlocks(), 9);
}

}  // namespace
}  // namespace penstock
