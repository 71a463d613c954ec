#include "core/sched/answer_length.h"

#include <gtest/gtest.h>

#include "core/sched/kv_forecast.h"

namespace penstock {
namespace {

// An answer that stops by itself.
void Stop(AnswerLength& lengths, int64_t generated, int64_t max_tokens) {
  const int last = AnswerLength::PartOf(generated, max_tokens);
  for (int part = 0; part <= last; ++part) lengths.CameTo(part);
  lengths.EndedIn(last);
}
void GoToTheEnd(AnswerLength& lengths) {
  for (int part = 0; part < AnswerLength::kParts; ++part) lengths.CameTo(part);
}

TEST(AnswerLength, BeginsWithTheWholeNeed) {
  const AnswerLength lengths;
  EXPECT_EQ(lengths.Expect(0, 1000), 1000);
  EXPECT_EQ(lengths.Expect(999, 1000), 1000);
  EXPECT_EQ(lengths.Expect(0, 1), 1);
}

TEST(AnswerLength, LearnsThatAnswersEndEarly) {
  AnswerLength lengths;
  for (int i = 0; i < 100; ++i) Stop(lengths, 250, 1000);
  EXPECT_GT(lengths.Expect(0, 1000), 250);
  EXPECT_LT(lengths.Expect(0, 1000), 400);
  // Who goes on beyond that was never seen to end.
  EXPECT_EQ(lengths.Expect(400, 1000), 1000);
}

// Answers that still go on count too, or the short ones, which end first, would say all.
TEST(AnswerLength, ThoseThatStillRunAreCounted) {
  AnswerLength lengths;
  for (int i = 0; i < 50; ++i) Stop(lengths, 10, 1000);
  for (int i = 0; i < 50; ++i) {
    for (int part = 0; part < 8; ++part) lengths.CameTo(part);
  }
  EXPECT_GT(lengths.Expect(0, 1000), 450);
  EXPECT_LT(lengths.Expect(0, 1000), 650);
}

TEST(AnswerLength, ForgetsWhatWasLongAgo) {
  AnswerLength lengths;
  for (int i = 0; i < 1000; ++i) Stop(lengths, 10, 1000);
  EXPECT_LT(lengths.Expect(0, 1000), 100);
  for (int i = 0; i < 1000; ++i) GoToTheEnd(lengths);
  EXPECT_GT(lengths.Expect(0, 1000), 900);
}

TEST(AnswerLength, IsCarefulAfterPreemptionsForAWhile) {
  AnswerLength lengths;
  for (int i = 0; i < 200; ++i) Stop(lengths, 10, 1000);
  const int64_t before = lengths.Expect(0, 1000);
  for (int i = 0; i < 8; ++i) lengths.WasPreempted();
  EXPECT_EQ(lengths.Expect(0, 1000), 1000);
  for (int i = 0; i < 300; ++i) Stop(lengths, 10, 1000);
  EXPECT_LE(lengths.Expect(0, 1000), before);
}

TEST(AnswerLength, ExpectsOneMoreTokenAtLeast) {
  AnswerLength lengths;
  for (int i = 0; i < 1000; ++i) Stop(lengths, 10, 1000);
  for (int64_t generated = 0; generated < 1000; ++generated) {
    EXPECT_GT(lengths.Expect(generated, 1000), generated);
    EXPECT_LE(lengths.Expect(generated, 1000), 1000);
  }
}

TEST(KvForecast, ThePeakIsBeforeAnEnd) {
  KvForecast forecast;
  EXPECT_EQ(forecast.PeakBlocks(), 0);
  // Alone: 640 + 640, and half a block.
  forecast.Add(640, 640);
  EXPECT_EQ(forecast.PeakBlocks(), 20);
  // The other has ended long before: 2 * (640 + 64 + 32) is more than 640 + 640 + 32.
  forecast.Add(640, 64);
  EXPECT_EQ(forecast.PeakBlocks(), 23);
  // At the same time: 2 * (640 + 640 + 32).
  forecast.Clear();
  forecast.Add(640, 640);
  forecast.Add(640, 640);
  EXPECT_EQ(forecast.PeakBlocks(), 41);
}

}  // namespace
}  // namespace penstock
