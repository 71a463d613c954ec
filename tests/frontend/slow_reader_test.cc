#include "frontend/slow_reader.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

constexpr absl::Time kNever = absl::InfiniteFuture();

absl::Time At(int64_t seconds) { return absl::FromUnixSeconds(1000 + seconds); }

TEST(SlowReader, MayHoldWhatIsAllowedForEver) {
  SlowReader reader(100, absl::Seconds(30));
  EXPECT_EQ(reader.cut_at(), kNever);
  reader.Change(100, At(0));
  EXPECT_EQ(reader.cut_at(), kNever);
  reader.Change(0, At(1000));
  EXPECT_EQ(reader.cut_at(), kNever);
  EXPECT_EQ(reader.bytes(), 100);
}

TEST(SlowReader, MoreForATime) {
  SlowReader reader(100, absl::Seconds(30));
  reader.Change(90, At(0));
  reader.Change(20, At(5));
  EXPECT_EQ(reader.cut_at(), At(35));
  reader.Change(50, At(6));  // from when it was too much, not from the last of it
  EXPECT_EQ(reader.cut_at(), At(35));
  reader.Change(-59, At(7));  // 101
  EXPECT_EQ(reader.cut_at(), At(35));
  reader.Change(-1, At(8));
  EXPECT_EQ(reader.cut_at(), kNever);
  reader.Change(1, At(9));  // a new time
  EXPECT_EQ(reader.cut_at(), At(39));
}

TEST(SlowReader, FourTimesAsMuchNotAtAll) {
  SlowReader reader(100, absl::Seconds(30));
  reader.Change(400, At(0));
  EXPECT_EQ(reader.cut_at(), At(30));
  reader.Change(1, At(1));
  EXPECT_EQ(reader.cut_at(), absl::InfinitePast());
  SlowReader patient(100, absl::InfiniteDuration());
  patient.Change(400, At(0));
  EXPECT_EQ(patient.cut_at(), kNever);
  patient.Change(1, At(0));
  EXPECT_EQ(patient.cut_at(), absl::InfinitePast());
}

}  // namespace
}  // namespace penstock
