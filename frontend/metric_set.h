// MetricSet: numbers that one thread writes and a scrape reads, and the text that Prometheus takes
// (exposition format 0.0.4). A number is a few atomics: who writes it never waits, not even for a
// scrape that goes on, and allocates nothing. (prometheus-cpp's own histogram takes a mutex.)
// Thread rule: any thread. Adding and Text() share a mutex that writing a number does not need.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace penstock {

class MetricCounter {
 public:
  void Add(int64_t count) { value_.fetch_add(count, std::memory_order_relaxed); }
  // What somebody else counts, another process for one. It may begin again at zero.
  void Set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_ = 0;
};

class MetricGauge {
 public:
  void Set(double value) { value_.store(value, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_ = 0;
};

class MetricHistogram {
 public:
  struct Snapshot {
    std::vector<int64_t> counts;  // one a bound, and what is above the last; not cumulative
    int64_t sum = 0;
  };

  // REQUIRES: the bounds ascend.
  explicit MetricHistogram(std::vector<int64_t> bounds);
  // Into the first bucket whose bound is not below `value`. Less than 0 (a clock that was set) is
  // 0.
  void Observe(int64_t value);
  const std::vector<int64_t>& bounds() const { return bounds_; }
  Snapshot Take() const;

 private:
  const std::vector<int64_t> bounds_;
  const std::unique_ptr<std::atomic<int64_t>[]> counts_;  // one more than bounds_
  std::atomic<int64_t> sum_ = 0;
};

// What counters and histograms hold: plain numbers, or nanoseconds, which are shown as seconds.
enum class MetricUnit { kOne, kNanoseconds };

class MetricSet {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;

  // Each returns what to write to; it lives as long as the set. Metrics of one name are one family,
  // whose help is that of the first. `bounds` are in what is shown (seconds).
  MetricCounter& AddCounter(const std::string& name, const std::string& help,
                            MetricUnit unit = MetricUnit::kOne, Labels labels = {});
  MetricGauge& AddGauge(const std::string& name, const std::string& help, Labels labels = {});
  MetricHistogram& AddHistogram(const std::string& name, const std::string& help,
                                const std::vector<double>& bounds, MetricUnit unit,
                                Labels labels = {});

  // All families in the order of their first metric; every metric has the labels `common` before
  // its own. Labels without a value are left out.
  std::string Text(const Labels& common) const;

 private:
  enum class Kind { kCounter, kGauge, kHistogram };
  struct Metric {
    Labels labels;
    std::unique_ptr<MetricCounter> counter;  // one of the three, by the family's kind
    std::unique_ptr<MetricGauge> gauge;
    std::unique_ptr<MetricHistogram> histogram;
  };
  struct Family {
    std::string name;
    std::string help;
    Kind kind = Kind::kCounter;
    MetricUnit unit = MetricUnit::kOne;
    std::vector<Metric> metrics;
  };

  void Add(const std::string& name, const std::string& help, Kind kind, MetricUnit unit,
           Metric metric);

  mutable std::mutex mutex_;
  std::vector<Family> families_;  // guarded by mutex_, the values apart
};

}  // namespace penstock
