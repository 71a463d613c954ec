#include "frontend/bench_report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/str_format.h"

namespace penstock {
namespace {

constexpr double kMs = 1e6;  // nanoseconds

double PerSecond(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

// `sorted` is not empty.
double Percentile(const std::vector<double>& sorted, double share) {
  const double rank = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(std::floor(rank));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (rank - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double MeanGapMs(const BenchCall& call) {
  const double sum = std::accumulate(call.gaps_ns.begin(), call.gaps_ns.end(), 0.0);
  return call.gaps_ns.empty() ? 0 : sum / static_cast<double>(call.gaps_ns.size()) / kMs;
}

// While all calls were being answered. A gap's token counts by the share of the gap that is in it.
void CountFullTime(const std::vector<BenchCall>& calls, BenchSummary* summary) {
  double begin_ns = 0;
  double end_ns = std::numeric_limits<double>::infinity();
  for (const BenchCall& call : calls) {
    if (!call.error.empty()) continue;
    begin_ns = std::max(begin_ns, static_cast<double>(call.sent_ns + call.first_ns));
    end_ns = std::min(end_ns, static_cast<double>(call.sent_ns + call.end_ns));
  }
  if (summary->completed == 0 || end_ns <= begin_ns) return;
  summary->full_seconds = (end_ns - begin_ns) * 1e-9;
  for (const BenchCall& call : calls) {
    if (!call.error.empty()) continue;
    auto time_ns = static_cast<double>(call.sent_ns + call.first_ns);
    for (const double gap : call.gaps_ns) {
      const double within = std::min(time_ns + gap, end_ns) - std::max(time_ns, begin_ns);
      time_ns += gap;
      if (within > 0) summary->full_tokens += within / gap;
    }
  }
}

bool Meets(const BenchCall& call, const BenchTargets& targets) {
  const double first_ms = static_cast<double>(call.first_ns) / kMs;
  return (targets.first_token_ms <= 0 || first_ms <= targets.first_token_ms) &&
         (targets.token_gap_ms <= 0 || MeanGapMs(call) <= targets.token_gap_ms);
}

bool HasTargets(const BenchTargets& targets) {
  return targets.first_token_ms > 0 || targets.token_gap_ms > 0;
}

nlohmann::ordered_json Json(const Percentiles& values) {
  return {{"mean", values.mean},
          {"p50", values.p50},
          {"p90", values.p90},
          {"p99", values.p99},
          {"max", values.max}};
}

}  // namespace

Percentiles PercentilesOf(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {static_cast<int64_t>(values.size()),
          sum / static_cast<double>(values.size()),
          Percentile(values, 0.5),
          Percentile(values, 0.9),
          Percentile(values, 0.99),
          values.back()};
}

BenchSummary Summarise(const std::vector<BenchCall>& calls, const BenchTargets& targets) {
  BenchSummary summary;
  summary.requests = static_cast<int64_t>(calls.size());
  std::vector<double> first;
  std::vector<double> gaps;
  std::vector<double> means;
  std::vector<double> whole;
  std::vector<double> late;
  int64_t begin_ns = calls.empty() ? 0 : calls.front().sent_ns;
  int64_t end_ns = begin_ns;
  for (const BenchCall& call : calls) {
    begin_ns = std::min(begin_ns, call.sent_ns);
    end_ns = std::max(end_ns, call.sent_ns + call.end_ns);
    late.push_back(static_cast<double>(call.late_ns) / kMs);
    if (!call.error.empty()) {
      if (summary.errors.empty()) summary.first_message = call.message;
      ++summary.errors[call.error];
      continue;
    }
    ++summary.completed;
    summary.prompt_tokens += call.prompt_tokens;
    summary.output_tokens += static_cast<int64_t>(call.ids.size());
    first.push_back(static_cast<double>(call.first_ns) / kMs);
    whole.push_back(static_cast<double>(call.end_ns) / kMs);
    for (const double gap : call.gaps_ns) gaps.push_back(gap / kMs);
    if (!call.gaps_ns.empty()) means.push_back(MeanGapMs(call));
    if (Meets(call, targets)) ++summary.good;
  }
  summary.seconds = static_cast<double>(end_ns - begin_ns) * 1e-9;
  CountFullTime(calls, &summary);
  summary.first_token = PercentilesOf(std::move(first));
  summary.token_gap = PercentilesOf(std::move(gaps));
  summary.time_per_token = PercentilesOf(std::move(means));
  summary.whole = PercentilesOf(std::move(whole));
  summary.late = PercentilesOf(std::move(late));
  return summary;
}

std::string BenchText(const BenchSummary& summary, const BenchTargets& targets) {
  std::string text = absl::StrFormat(
      "requests       %d of %d completed in %.2f s: %.2f requests/s\n"
      "tokens         %d output: %.1f tokens/s; %d prompt: %.1f tokens/s\n",
      summary.completed, summary.requests, summary.seconds,
      PerSecond(summary.completed, summary.seconds), summary.output_tokens,
      PerSecond(summary.output_tokens, summary.seconds), summary.prompt_tokens,
      PerSecond(summary.prompt_tokens, summary.seconds));
  if (summary.full_seconds > 0) {
    absl::StrAppendFormat(&text, "all at once    %.1f output tokens/s for %.2f s\n",
                          summary.full_tokens / summary.full_seconds, summary.full_seconds);
  }
  const auto line = [&text](const char* name, const Percentiles& values) {
    absl::StrAppendFormat(&text, "%-14s p50 %.2f  p90 %.2f  p99 %.2f  mean %.2f  max %.2f ms\n",
                          name, values.p50, values.p90, values.p99, values.mean, values.max);
  };
  if (summary.completed > 0) {
    line("first token", summary.first_token);
    line("between tokens", summary.token_gap);
    line("time per token", summary.time_per_token);
    line("whole answer", summary.whole);
  }
  line("sent late by", summary.late);
  if (HasTargets(targets)) {
    absl::StrAppendFormat(&text, "goodput        %.2f requests/s: %d met",
                          PerSecond(summary.good, summary.seconds), summary.good);
    if (targets.first_token_ms > 0) {
      absl::StrAppendFormat(&text, " first token <= %g ms", targets.first_token_ms);
    }
    if (targets.token_gap_ms > 0) {
      absl::StrAppendFormat(&text, " time per token <= %g ms", targets.token_gap_ms);
    }
    text += "\n";
  }
  for (const auto& [error, count] : summary.errors) {
    absl::StrAppendFormat(&text, "error          %s: %d\n", error, count);
  }
  return text;
}

std::string BenchJson(const BenchSummary& summary, const BenchTargets& targets) {
  nlohmann::ordered_json json = {
      {"requests", summary.requests},
      {"completed", summary.completed},
      {"seconds", summary.seconds},
      {"prompt_tokens", summary.prompt_tokens},
      {"output_tokens", summary.output_tokens},
      {"requests_per_second", PerSecond(summary.completed, summary.seconds)},
      {"output_tokens_per_second", PerSecond(summary.output_tokens, summary.seconds)},
      {"prompt_tokens_per_second", PerSecond(summary.prompt_tokens, summary.seconds)},
      {"full_seconds", summary.full_seconds},
      {"full_tokens_per_second",
       summary.full_seconds > 0 ? summary.full_tokens / summary.full_seconds : 0},
      {"first_token_ms", Json(summary.first_token)},
      {"between_tokens_ms", Json(summary.token_gap)},
      {"time_per_token_ms", Json(summary.time_per_token)},
      {"whole_ms", Json(summary.whole)},
      {"sent_late_ms", Json(summary.late)},
      {"errors", summary.errors}};
  if (HasTargets(targets)) {
    json["target_first_token_ms"] = targets.first_token_ms;
    json["target_time_per_token_ms"] = targets.token_gap_ms;
    json["good"] = summary.good;
    json["good_requests_per_second"] = PerSecond(summary.good, summary.seconds);
  }
  return json.dump(2) + "\n";
}

}  // namespace penstock
