#include "frontend/trace_timeline.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

namespace penstock {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kOrigin = 1000 * kMs;

// A plan on a stage whose clock is the front end's; `start` counts from the origin.
TraceEvent Plan(int32_t stage, uint64_t number, int64_t start, StageTimes times) {
  TraceEvent event;
  event.kind = TraceEvent::Kind::kStage;
  event.record.stage = stage;
  event.record.epoch = 1;
  event.record.plan = number;
  event.record.rows = 2;
  event.record.tokens = 65;
  event.record.prefill_tokens = 64;
  times.start_ns = kOrigin + start;
  event.record.times = times;
  event.submitted = times.start_ns - times.wait_input_ns;
  event.time = times.start_ns + times.compute_ns + times.send_ns;
  return event;
}

class TraceTimelineTest : public testing::Test {
 protected:
  void Append(const TraceEvent& event) { timeline_.Append(event, &lines_); }
  Json Parsed() const { return Json::parse(timeline_.Head() + lines_ + "\n]"); }
  // All of a kind, in order.
  std::vector<Json> Events(const std::string& kind) const {
    std::vector<Json> events;
    for (const Json& event : Parsed()) {
      if (event["ph"] == kind) events.push_back(event);
    }
    return events;
  }

  TraceTimeline timeline_{2, kOrigin};
  std::string lines_;
};

TEST_F(TraceTimelineTest, NamesAProcessForEachStage) {
  std::map<int, std::string> names;
  for (const Json& event : Parsed()) {
    if (event["name"] == "process_name") names[event["pid"]] = event["args"]["name"];
  }
  const std::map<int, std::string> expected = {{0, "front end"}, {1, "stage 0"}, {2, "stage 1"}};
  EXPECT_EQ(names, expected);
}

TEST_F(TraceTimelineTest, APlanIsFourSlicesOneAfterTheOther) {
  Append(Plan(0, 7, 10 * kMs,
              {.compute_ns = 5 * kMs,
               .wait_plan_ns = 2 * kMs,
               .wait_input_ns = 3 * kMs,
               .send_ns = 1'500}));
  const std::vector<Json> slices = Events("X");
  ASSERT_EQ(slices.size(), 4u);
  const struct {
    const char* name;
    double begin;  // microseconds
    double length;
  } expected[] = {{"wait plan", 5000, 2000},
                  {"wait input", 7000, 3000},
                  {"compute", 10000, 5000},
                  {"send", 15000, 1.5}};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(slices[i]["name"], expected[i].name);
    EXPECT_EQ(slices[i]["ts"], expected[i].begin);
    EXPECT_EQ(slices[i]["dur"], expected[i].length);
    EXPECT_EQ(slices[i]["pid"], 1);
    EXPECT_EQ(slices[i]["args"]["plan"], 7);
    EXPECT_EQ(slices[i]["args"]["rows"], 2);
    EXPECT_EQ(slices[i]["args"]["tokens"], 65);
    EXPECT_EQ(slices[i]["args"]["prefill tokens"], 64);
  }
  EXPECT_TRUE(Events("b").empty());  // told by the last stage
}

TEST_F(TraceTimelineTest, SlicesOfAStageNeverOverlap) {
  uint64_t random = 1;
  const auto next = [&random](int64_t below) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int64_t>((random >> 33) % static_cast<uint64_t>(below));
  };
  int64_t start = -20 * kMs;  // of a server that ran before the trace began
  for (uint64_t number = 1; number < 500; ++number) {
    // What a stage says may contradict what it said before.
    start += next(8 * kMs) - kMs;
    Append(Plan(static_cast<int32_t>(number % 2), number, start,
                {.compute_ns = next(5 * kMs),
                 .wait_plan_ns = next(3 * kMs),
                 .wait_input_ns = next(3 * kMs),
                 .send_ns = next(kMs)}));
  }
  std::map<int, double> ends;
  const std::vector<Json> slices = Events("X");
  EXPECT_GT(slices.size(), 500u);
  for (const Json& slice : slices) {
    double& end = ends[slice["pid"]];
    EXPECT_GE(slice["ts"].get<double>(), end - 0.0005);
    EXPECT_GT(slice["dur"].get<double>(), 0);
    end = slice["ts"].get<double>() + slice["dur"].get<double>();
  }
  EXPECT_EQ(ends.size(), 2u);
}

TEST_F(TraceTimelineTest, TheLastStageEndsAPlan) {
  Append(Plan(1, 9, 10 * kMs, {.compute_ns = 5 * kMs, .wait_input_ns = kMs}));
  ASSERT_EQ(Events("b").size(), 1u);
  ASSERT_EQ(Events("e").size(), 1u);
  EXPECT_EQ(Events("b")[0]["ts"], 9000);
  EXPECT_EQ(Events("b")[0]["id"], 9);
  EXPECT_EQ(Events("e")[0]["ts"], 15000);
  EXPECT_EQ(Events("e")[0]["id"], 9);
}

TEST_F(TraceTimelineTest, CountersAndInstants) {
  TraceEvent event;
  event.kind = TraceEvent::Kind::kGauges;
  event.time = kOrigin + 2 * kMs;
  event.gauges.running = 3;
  event.gauges.waiting = 4;
  event.gauges.blocks_used = 5;
  event.gauges.blocks_cached = 6;
  event.gauges.plans_in_flight = 7;
  Append(event);
  TraceEvent instant;
  instant.time = kOrigin + 3 * kMs;
  instant.stage = 1;
  instant.text = "lost: \"why\" \xff";
  Append(instant);
  const std::vector<Json> counters = Events("C");
  ASSERT_EQ(counters.size(), 3u);
  EXPECT_EQ(counters[0]["args"], (Json{{"running", 3}, {"waiting", 4}}));
  EXPECT_EQ(counters[1]["args"], (Json{{"owned", 5}, {"cached", 6}}));
  EXPECT_EQ(counters[2]["args"], (Json{{"plans", 7}}));
  EXPECT_EQ(counters[0]["ts"], 2000);
  ASSERT_EQ(Events("i").size(), 1u);
  EXPECT_EQ(Events("i")[0]["pid"], 2);
  EXPECT_EQ(Events("i")[0]["ts"], 3000);
}

TEST_F(TraceTimelineTest, AStageThatThereIsNotIsLeftOut) {
  Append(Plan(2, 1, 0, {.compute_ns = 1}));
  EXPECT_EQ(lines_, "");
}

TEST(StageClockTest, OneHostNeedsNoShift) {
  StageClock clock;
  EXPECT_EQ(clock.shift(), 0);
  clock.Observe(1000 * kMs, 1020 * kMs, 1005 * kMs, 1015 * kMs);
  EXPECT_EQ(clock.shift(), 0);
}

TEST(StageClockTest, AnotherHostsClockIsSetByTheFastestAnswer) {
  StageClock clock;
  constexpr int64_t kAhead = 77'000 * kMs;
  clock.Observe(1000 * kMs, 1020 * kMs, 1005 * kMs + kAhead, 1015 * kMs + kAhead);
  EXPECT_EQ(clock.shift(), 5 * kMs - kAhead);
  clock.Observe(2000 * kMs, 2016 * kMs, 2005 * kMs + kAhead, 2015 * kMs + kAhead);
  EXPECT_EQ(clock.shift(), kMs - kAhead);
  clock.Observe(3000 * kMs, 3020 * kMs, 3005 * kMs + kAhead, 3015 * kMs + kAhead);
  EXPECT_EQ(clock.shift(), kMs - kAhead);
}

TEST(StageClockTest, ClocksThatDriftApartAreFollowed) {
  StageClock clock;
  int64_t ahead = 77'000 * kMs;
  for (int i = 0; i < 10'000; ++i) {
    const int64_t sent = (1000 + 20 * i) * kMs;
    ahead -= 10'000;  // 10 microseconds in 20 ms
    clock.Observe(sent, sent + 16 * kMs, sent + 5 * kMs + ahead, sent + 15 * kMs + ahead);
    // Off by the answer's way, and by what two windows drift.
    EXPECT_NEAR(static_cast<double>(clock.shift()), static_cast<double>(kMs - ahead),
                520 * 10'000.0);
  }
}

}  // namespace
}  // namespace penstock
