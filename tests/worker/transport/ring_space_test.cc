#include "worker/transport/ring_space.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>
#include <utility>

namespace penstock {
namespace {

TEST(RingSpaceTest, PartsLieBehindEachOtherAndAreNeverCut) {
  RingSpace ring(1024);
  EXPECT_EQ(ring.Take(300), 0);
  EXPECT_EQ(ring.Take(100), 512);
  EXPECT_EQ(ring.Take(300), std::nullopt) << "768 to 1068 leaves the ring, 0 to 300 is taken";
  ring.Free();
  EXPECT_EQ(ring.Take(300), 0) << "what was left at the end waits with it";
  EXPECT_EQ(ring.Take(1), std::nullopt) << "the next that is aligned is taken";
  ring.Free();
  EXPECT_EQ(ring.Take(1), 512);
  EXPECT_EQ(ring.parts(), 2);
}

TEST(RingSpaceTest, AnEmptyRingHasRoomForAllOfIt) {
  RingSpace ring(1024);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(ring.Take(1024), 0);
    EXPECT_EQ(ring.Take(1), std::nullopt);
    ring.Free();
    EXPECT_EQ(ring.Take(257), 0);
    EXPECT_EQ(ring.Take(1024), std::nullopt);
    ring.Free();
  }
}

// Against a plain list of who lies where.
TEST(RingSpaceTest, NoTwoPartsOverlap) {
  std::mt19937 random(7);
  constexpr int64_t kBytes = 16 * RingSpace::kAlignment;
  RingSpace ring(kBytes);
  std::deque<std::pair<int64_t, int64_t>> parts;
  int64_t refused = 0;
  for (int step = 0; step < 20000; ++step) {
    if (random() % 2 == 0 && !parts.empty()) {
      ring.Free();
      parts.pop_front();
      continue;
    }
    const auto bytes = static_cast<int64_t>(1 + random() % (step % 7 == 0 ? kBytes : 900));
    const std::optional<int64_t> offset = ring.Take(bytes);
    if (!offset.has_value()) {
      ++refused;
      ASSERT_FALSE(parts.empty());
      continue;
    }
    ASSERT_EQ(*offset % RingSpace::kAlignment, 0);
    ASSERT_LE(*offset + bytes, kBytes);
    for (const auto& [first, last] : parts) {
      ASSERT_TRUE(*offset >= last || *offset + bytes <= first)
          << *offset << " to " << *offset + bytes << " over " << first << " to " << last;
    }
    parts.emplace_back(*offset, *offset + bytes);
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace penstock
