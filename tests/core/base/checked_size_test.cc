#include "core/base/checked_size.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace penstock {
namespace {

constexpr uint64_t kMaxU64 = UINT64_MAX;

TEST(CheckedSizeTest, HoldsWhatAnInt64Holds) {
  EXPECT_EQ(CheckedSize(0).value(), 0);
  EXPECT_EQ(CheckedSize(INT64_MAX).value(), INT64_MAX);
  EXPECT_EQ(CheckedSize(uint64_t{1} << 62).value(), int64_t{1} << 62);
  EXPECT_EQ(CheckedSize((uint64_t{1} << 63) - 1).value(), INT64_MAX);
}

TEST(CheckedSizeTest, RefusesNegativeAndTooLarge) {
  for (const int64_t value : {int64_t{-1}, INT64_MIN}) {
    EXPECT_FALSE(CheckedSize(value).value().has_value());
  }
  EXPECT_FALSE(CheckedSize(-1).value().has_value());
  for (const uint64_t value : {uint64_t{1} << 63, kMaxU64, kMaxU64 - 2}) {
    EXPECT_FALSE(CheckedSize(value).value().has_value());
  }
}

TEST(CheckedSizeTest, AddsUpToTheLimit) {
  EXPECT_EQ((CheckedSize(2) + CheckedSize(3)).value(), 5);
  EXPECT_EQ((CheckedSize(INT64_MAX) + CheckedSize(0)).value(), INT64_MAX);
  EXPECT_FALSE((CheckedSize(INT64_MAX) + CheckedSize(1)).value().has_value());
  EXPECT_FALSE((CheckedSize(INT64_MAX) + CheckedSize(INT64_MAX)).value().has_value());
}

TEST(CheckedSizeTest, MultipliesUpToTheLimit) {
  EXPECT_EQ((CheckedSize(6) * CheckedSize(7)).value(), 42);
  EXPECT_EQ((CheckedSize(INT64_MAX) * CheckedSize(1)).value(), INT64_MAX);
  EXPECT_EQ((CheckedSize(INT64_MAX) * CheckedSize(0)).value(), 0);
  EXPECT_FALSE((CheckedSize(int64_t{1} << 62) * CheckedSize(2)).value().has_value());
  // These wrap to 0 and to 8 in 64 bits.
  EXPECT_FALSE((CheckedSize(int64_t{1} << 32) * CheckedSize(int64_t{1} << 32)).value());
  EXPECT_FALSE((CheckedSize((int64_t{1} << 61) + 1) * CheckedSize(8)).value().has_value());
}

TEST(CheckedSizeTest, AFailureStays) {
  const CheckedSize bad(int64_t{-1});
  EXPECT_FALSE((bad * CheckedSize(0)).value().has_value());
  EXPECT_FALSE((CheckedSize(0) * bad).value().has_value());
  EXPECT_FALSE((bad + CheckedSize(1)).value().has_value());
  EXPECT_FALSE((CheckedSize(1) + bad).value().has_value());
  EXPECT_FALSE(bad.RoundUp(32).value().has_value());
  EXPECT_FALSE(bad.FitsIn(INT64_MAX));
}

TEST(CheckedSizeTest, RoundsUp) {
  EXPECT_EQ(CheckedSize(0).RoundUp(32).value(), 0);
  EXPECT_EQ(CheckedSize(1).RoundUp(32).value(), 32);
  EXPECT_EQ(CheckedSize(32).RoundUp(32).value(), 32);
  EXPECT_EQ(CheckedSize(33).RoundUp(32).value(), 64);
  EXPECT_EQ(CheckedSize(7).RoundUp(1).value(), 7);
  EXPECT_FALSE(CheckedSize(INT64_MAX - 3).RoundUp(32).value().has_value());
  EXPECT_FALSE(CheckedSize(kMaxU64 - 3).RoundUp(32).value().has_value());
}

TEST(CheckedSizeTest, FitsInIsInclusive) {
  EXPECT_TRUE(CheckedSize(10).FitsIn(10));
  EXPECT_FALSE(CheckedSize(11).FitsIn(10));
  EXPECT_FALSE((CheckedSize(INT64_MAX) + CheckedSize(1)).FitsIn(INT64_MAX));
}

TEST(CheckedSizeTest, ProductOfMany) {
  EXPECT_EQ(CheckedProduct({}).value(), 1);
  EXPECT_EQ(CheckedProduct({2, 3, 7}).value(), 42);
  EXPECT_FALSE(CheckedProduct({int64_t{1} << 21, int64_t{1} << 21, int64_t{1} << 21}).value());
  EXPECT_FALSE(CheckedProduct({kMaxU64, 0}).value().has_value());
}

static_assert(CheckedSize(20).RoundUp(16).value() == 32);

}  // namespace
}  // namespace penstock
