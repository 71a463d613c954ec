#include "frontend/bench_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace penstock {
namespace {

constexpr int64_t kMs = 1'000'000;

TEST(BenchReportTest, PercentilesLieBetweenTheNearestRanks) {
  EXPECT_EQ(PercentilesOf({}).count, 0);
  const Percentiles one = PercentilesOf({7});
  EXPECT_EQ(one.p50, 7);
  EXPECT_EQ(one.p99, 7);
  // As numpy.percentile.
  const Percentiles some = PercentilesOf({5, 1, 4, 2});
  EXPECT_EQ(some.count, 4);
  EXPECT_EQ(some.mean, 3);
  EXPECT_EQ(some.p50, 3);
  EXPECT_DOUBLE_EQ(some.p90, 4.7);
  EXPECT_DOUBLE_EQ(some.p99, 4.97);
  EXPECT_EQ(some.max, 5);
}

BenchCall Call(int64_t sent_ms, int64_t first_ms, std::vector<double> gaps_ms) {
  BenchCall call;
  call.prompt_tokens = 10;
  call.output_tokens = static_cast<int64_t>(gaps_ms.size()) + 1;
  call.ids.assign(gaps_ms.size() + 1, 1);
  call.sent_ns = sent_ms * kMs;
  call.first_ns = first_ms * kMs;
  call.end_ns = call.first_ns;
  for (const double gap : gaps_ms) {
    call.gaps_ns.push_back(gap * kMs);
    call.end_ns += static_cast<int64_t>(gap * kMs);
  }
  return call;
}

std::vector<BenchCall> Calls() {
  std::vector<BenchCall> calls = {Call(500, 100, {10, 30}), Call(0, 300, {20, 20, 20}),
                                  Call(1000, 200, {})};
  calls.push_back(Call(2000, 100, {1000}));
  calls.back().error = "UNAVAILABLE";
  calls.back().message = "gone";
  return calls;
}

TEST(BenchReportTest, CountsWhatCameToItsEnd) {
  const BenchSummary summary = Summarise(Calls(), {});
  EXPECT_EQ(summary.requests, 4);
  EXPECT_EQ(summary.completed, 3);
  EXPECT_EQ(summary.errors.at("UNAVAILABLE"), 1);
  EXPECT_EQ(summary.first_message, "gone");
  EXPECT_EQ(summary.output_tokens, 8);
  EXPECT_EQ(summary.prompt_tokens, 30);
  EXPECT_DOUBLE_EQ(summary.seconds, 3.1);  // the failed one was under way too
  EXPECT_EQ(summary.first_token.p50, 200);
  EXPECT_EQ(summary.token_gap.count, 5);
  EXPECT_EQ(summary.token_gap.mean, 20);
  EXPECT_EQ(summary.token_gap.max, 30);
  EXPECT_EQ(summary.time_per_token.count, 2);  // one token has no time between tokens
  EXPECT_EQ(summary.time_per_token.p50, 20);
  EXPECT_EQ(summary.whole.max, 360);
}

TEST(BenchReportTest, TheTimeOfAllIsFromTheLastFirstTokenToTheFirstLastOne) {
  // The failed one does not count; of those two the time from 200 ms to 280 is shared.
  std::vector<BenchCall> calls = {Call(0, 100, {90, 90}), Call(0, 200, {40, 80}),
                                  Call(0, 270, {1})};
  calls.back().error = "UNAVAILABLE";
  const BenchSummary summary = Summarise(calls, {});
  EXPECT_DOUBLE_EQ(summary.full_seconds, 0.08);
  EXPECT_DOUBLE_EQ(summary.full_tokens, 80.0 / 90 + 1 + 0.5);
  EXPECT_NE(BenchText(summary, {}).find("all at once    29.9 output tokens/s for 0.08 s"),
            std::string::npos);
  EXPECT_EQ(Summarise(Calls(), {}).full_seconds, 0);  // one had ended before another began
}

TEST(BenchReportTest, GoodputIsOfThoseThatMeetAllTargets) {
  EXPECT_EQ(Summarise(Calls(), {}).good, 3);
  EXPECT_EQ(Summarise(Calls(), {.first_token_ms = 200}).good, 2);
  EXPECT_EQ(Summarise(Calls(), {.token_gap_ms = 19}).good, 1);
  EXPECT_EQ(Summarise(Calls(), {.first_token_ms = 150, .token_gap_ms = 20}).good, 1);
}

TEST(BenchReportTest, TextAndJsonSayTheSame) {
  const BenchTargets targets = {.first_token_ms = 200};
  const BenchSummary summary = Summarise(Calls(), targets);
  const std::string text = BenchText(summary, targets);
  for (const std::string words :
       {"3 of 4 completed in 3.10 s: 0.97 requests/s", "8 output: 2.6 tokens/s",
        "first token    p50 200.00  p90 280.00",
        "goodput        0.65 requests/s: 2 met first token", "error          UNAVAILABLE: 1"}) {
    EXPECT_NE(text.find(words), std::string::npos) << words << "\n" << text;
  }
  const nlohmann::json json = nlohmann::json::parse(BenchJson(summary, targets));
  EXPECT_EQ(json["completed"], 3);
  EXPECT_EQ(json["first_token_ms"]["p50"], 200);
  EXPECT_EQ(json["good"], 2);
  EXPECT_EQ(json["errors"]["UNAVAILABLE"], 1);
  EXPECT_EQ(BenchText(summary, {}).find("goodput"), std::string::npos);
}

TEST(BenchReportTest, NothingCameToItsEnd) {
  std::vector<BenchCall> calls = {Calls().back()};
  const std::string text = BenchText(Summarise(calls, {}), {});
  EXPECT_EQ(text.find("first token"), std::string::npos);
  EXPECT_NE(text.find("0 of 1 completed"), std::string::npos);
}

}  // namespace
}  // namespace penstock
