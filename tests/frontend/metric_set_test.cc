#include "frontend/metric_set.h"

#include <gtest/gtest.h>

#include <thread>

namespace penstock {
namespace {

TEST(MetricSetTest, ShowsEachKindAsPrometheusReadsIt) {
  MetricSet set;
  set.AddCounter("a_total", "How many.", MetricUnit::kOne, {{"stage", "0"}}).Add(3);
  set.AddGauge("b", "How much.").Set(0.25);
  set.AddCounter("a_total", "Not shown.", MetricUnit::kOne, {{"stage", "1"}}).Add(4);
  set.AddCounter("c_seconds_total", "How long.", MetricUnit::kNanoseconds).Set(1'500'000'000);
  EXPECT_EQ(set.Text({{"model_name", "m"}, {"empty", ""}}),
            "# HELP a_total How many.\n"
            "# TYPE a_total counter\n"
            "a_total{model_name=\"m\",stage=\"0\"} 3\n"
            "a_total{model_name=\"m\",stage=\"1\"} 4\n"
            "# HELP b How much.\n"
            "# TYPE b gauge\n"
            "b{model_name=\"m\"} 0.25\n"
            "# HELP c_seconds_total How long.\n"
            "# TYPE c_seconds_total counter\n"
            "c_seconds_total{model_name=\"m\"} 1.5\n");
}

TEST(MetricSetTest, ABucketHoldsItsBoundAndAllBucketsBelow) {
  MetricSet set;
  MetricHistogram& histogram =
      set.AddHistogram("h_seconds", "H.", {0.001, 0.5, 2}, MetricUnit::kNanoseconds);
  histogram.Observe(1'000'000);      // is the first bound
  histogram.Observe(1'000'001);      // is not
  histogram.Observe(2'000'000'001);  // above all
  histogram.Observe(-5);             // a clock was set back
  EXPECT_EQ(set.Text({}),
            "# HELP h_seconds H.\n"
            "# TYPE h_seconds histogram\n"
            "h_seconds_count 4\n"
            "h_seconds_sum 2.002000002\n"
            "h_seconds_bucket{le=\"0.001\"} 2\n"
            "h_seconds_bucket{le=\"0.5\"} 3\n"
            "h_seconds_bucket{le=\"2\"} 3\n"
            "h_seconds_bucket{le=\"+Inf\"} 4\n");
}

TEST(MetricSetTest, EscapesLabels) {
  MetricSet set;
  set.AddGauge("g", "G.").Set(1);
  EXPECT_EQ(set.Text({{"model_name", "a\"b\\c\nd"}}),
            "# HELP g G.\n# TYPE g gauge\ng{model_name=\"a\\\"b\\\\c\\nd\"} 1\n");
}

TEST(MetricSetTest, AScrapeInBetweenIsConsistent) {
  MetricSet set;
  MetricHistogram& histogram = set.AddHistogram("h", "H.", {1, 2}, MetricUnit::kOne);
  constexpr int kObservations = 100'000;
  std::thread writer([&] {
    for (int i = 0; i < kObservations; ++i) histogram.Observe(i % 4);
  });
  // The count is that of the buckets, whatever is written meanwhile.
  for (int i = 0; i < 100; ++i) {
    const std::string text = set.Text({});
    const size_t count = text.find("h_count ");
    const size_t all = text.find("h_bucket{le=\"+Inf\"} ");
    ASSERT_NE(all, std::string::npos);
    EXPECT_EQ(std::stoll(text.substr(count + 8)), std::stoll(text.substr(all + 20)));
  }
  writer.join();
  const MetricHistogram::Snapshot snapshot = histogram.Take();
  EXPECT_EQ(snapshot.counts, (std::vector<int64_t>{50'000, 25'000, 25'000}));
  EXPECT_EQ(snapshot.sum, 150'000);
}

TEST(MetricSetDeathTest, AFamilyIsOfOneKind) {
  MetricSet set;
  set.AddGauge("g", "G.");
  EXPECT_DEATH(set.AddCounter("g", "G."), "kind");
}

}  // namespace
}  // namespace penstock
