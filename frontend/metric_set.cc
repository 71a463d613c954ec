#include "frontend/metric_set.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/check.h"

namespace penstock {
namespace {

// How many of what is held make one of what is shown. Divided by, not multiplied: 5 ms is 0.005.
double PerShown(MetricUnit unit) { return unit == MetricUnit::kNanoseconds ? 1e9 : 1; }

std::vector<int64_t> Held(const std::vector<double>& bounds, MetricUnit unit) {
  std::vector<int64_t> held;
  held.reserve(bounds.size());
  for (const double bound : bounds) held.push_back(std::llround(bound * PerShown(unit)));
  return held;
}

void AddLabels(const MetricSet::Labels& labels, prometheus::ClientMetric* metric) {
  for (const auto& [name, value] : labels) {
    if (value.empty()) continue;
    prometheus::ClientMetric::Label label;
    label.name = name;
    label.value = value;
    metric->label.push_back(std::move(label));
  }
}

prometheus::ClientMetric::Histogram Shown(const MetricHistogram& histogram, double per_shown) {
  const MetricHistogram::Snapshot snapshot = histogram.Take();
  prometheus::ClientMetric::Histogram shown;
  shown.sample_sum = static_cast<double>(snapshot.sum) / per_shown;
  for (size_t i = 0; i < snapshot.counts.size(); ++i) {
    shown.sample_count += static_cast<uint64_t>(snapshot.counts[i]);
    const bool last = i == histogram.bounds().size();
    prometheus::ClientMetric::Bucket bucket;
    bucket.cumulative_count = shown.sample_count;
    bucket.upper_bound = last ? std::numeric_limits<double>::infinity()
                              : static_cast<double>(histogram.bounds()[i]) / per_shown;
    shown.bucket.push_back(bucket);
  }
  return shown;
}

}  // namespace

MetricHistogram::MetricHistogram(std::vector<int64_t> bounds)
    : bounds_(std::move(bounds)),
      counts_(std::make_unique<std::atomic<int64_t>[]>(bounds_.size() + 1)) {
  PENSTOCK_CHECK(std::is_sorted(bounds_.begin(), bounds_.end()));
}

void MetricHistogram::Observe(int64_t value) {
  value = std::max<int64_t>(value, 0);
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<size_t>(bucket)].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

MetricHistogram::Snapshot MetricHistogram::Take() const {
  Snapshot snapshot;
  for (size_t i = 0; i <= bounds_.size(); ++i) {
    snapshot.counts.push_back(counts_[i].load(std::memory_order_relaxed));
  }
  snapshot.sum = sum_.load(std::memory_order_relaxed);
  return snapshot;
}

void MetricSet::Add(const std::string& name, const std::string& help, Kind kind, MetricUnit unit,
                    Metric metric) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto family = std::find_if(families_.begin(), families_.end(),
                             [&](const Family& one) { return one.name == name; });
  if (family == families_.end()) {
    families_.push_back({name, help, kind, unit, {}});
    family = families_.end() - 1;
  }
  PENSTOCK_CHECK(family->kind == kind && family->unit == unit);
  family->metrics.push_back(std::move(metric));
}

MetricCounter& MetricSet::AddCounter(const std::string& name, const std::string& help,
                                     MetricUnit unit, Labels labels) {
  auto counter = std::make_unique<MetricCounter>();
  MetricCounter& result = *counter;
  Add(name, help, Kind::kCounter, unit, {std::move(labels), std::move(counter), nullptr, nullptr});
  return result;
}

MetricGauge& MetricSet::AddGauge(const std::string& name, const std::string& help, Labels labels) {
  auto gauge = std::make_unique<MetricGauge>();
  MetricGauge& result = *gauge;
  Add(name, help, Kind::kGauge, MetricUnit::kOne,
      {std::move(labels), nullptr, std::move(gauge), nullptr});
  return result;
}

MetricHistogram& MetricSet::AddHistogram(const std::string& name, const std::string& help,
                                         const std::vector<double>& bounds, MetricUnit unit,
                                         Labels labels) {
  auto histogram = std::make_unique<MetricHistogram>(Held(bounds, unit));
  MetricHistogram& result = *histogram;
  Add(name, help, Kind::kHistogram, unit,
      {std::move(labels), nullptr, nullptr, std::move(histogram)});
  return result;
}

std::string MetricSet::Text(const Labels& common) const {
  std::vector<prometheus::MetricFamily> shown;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const Family& family : families_) {
      prometheus::MetricFamily& out = shown.emplace_back();
      out.name = family.name;
      out.help = family.help;
      out.type = family.kind == Kind::kCounter ? prometheus::MetricType::Counter
                 : family.kind == Kind::kGauge ? prometheus::MetricType::Gauge
                                               : prometheus::MetricType::Histogram;
      const double per_shown = PerShown(family.unit);
      for (const Metric& metric : family.metrics) {
        prometheus::ClientMetric& one = out.metric.emplace_back();
        AddLabels(common, &one);
        AddLabels(metric.labels, &one);
        if (metric.counter) {
          one.counter.value = static_cast<double>(metric.counter->value()) / per_shown;
        } else if (metric.gauge) {
          one.gauge.value = metric.gauge->value();
        } else {
          one.histogram = Shown(*metric.histogram, per_shown);
        }
      }
    }
  }
  return prometheus::TextSerializer().Serialize(shown);
}

}  // namespace penstock
