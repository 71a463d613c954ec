#include "frontend/trace_timeline.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "core/base/check.h"

namespace penstock {
namespace {

constexpr int64_t kWindow = 256;  // plans
// What reading two clocks one after the other may differ by.
constexpr int64_t kSlackNs = 1'000'000;
// The front end's process; a stage's is its index + 1.
constexpr int32_t kFrontEnd = 0;
constexpr int32_t kTrack = 1;

std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

// Microseconds, which are the format's.
std::string Micros(int64_t ns) { return absl::StrFormat("%d.%03d", ns / 1000, ns % 1000); }

}  // namespace

void StageClock::Observe(int64_t submitted, int64_t received, int64_t start, int64_t end) {
  if (now_.count == kWindow) {
    before_ = now_;
    now_ = Window();
  }
  now_.least = std::max(now_.least, submitted - start);
  now_.most = std::min(now_.most, received - end);
  ++now_.count;
}

int64_t StageClock::shift() const {
  const int64_t least = std::max(now_.least, before_.least);
  const int64_t most = std::min(now_.most, before_.most);
  if (now_.count == 0 || (least <= kSlackNs && most >= -kSlackNs)) return 0;
  return most;
}

TraceTimeline::TraceTimeline(int32_t num_stages, int64_t origin)
    : origin_(origin), stages_(static_cast<size_t>(num_stages)) {
  for (Stage& stage : stages_) stage.end = origin;
}

std::string TraceTimeline::Time(int64_t ns) const {
  return Micros(std::max<int64_t>(ns - origin_, 0));
}

std::string TraceTimeline::Head() const {
  std::string lines;
  const auto name = [&lines](const char* what, int32_t process, const std::string& value) {
    absl::StrAppendFormat(&lines,
                          ",\n{\"name\":\"%s\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{%s}}",
                          what, process, kTrack, value);
  };
  for (int32_t process = 0; process <= static_cast<int32_t>(stages_.size()); ++process) {
    const std::string title =
        process == kFrontEnd ? "front end" : absl::StrCat("stage ", process - 1);
    name("process_name", process, absl::StrCat("\"name\":\"", title, "\""));
    name("process_sort_index", process, absl::StrCat("\"sort_index\":", process));
    if (process != kFrontEnd) name("thread_name", process, "\"name\":\"plans\"");
  }
  lines[0] = '[';
  return lines;
}

void TraceTimeline::Append(const TraceEvent& event, std::string* lines) {
  switch (event.kind) {
    case TraceEvent::Kind::kStage:
      AppendPlan(event, lines);
      return;
    case TraceEvent::Kind::kGauges:
      AppendGauges(event, lines);
      return;
    case TraceEvent::Kind::kInstant:
      AppendInstant(event, lines);
      return;
  }
}

void TraceTimeline::AppendPlan(const TraceEvent& event, std::string* lines) {
  const StageRecord& record = event.record;
  const StageTimes& times = record.times;
  if (record.stage < 0 || record.stage >= static_cast<int32_t>(stages_.size())) return;
  Stage& stage = stages_[static_cast<size_t>(record.stage)];
  if (stage.epoch != record.epoch) stage.clock.Forget();
  stage.epoch = record.epoch;
  stage.clock.Observe(event.submitted, event.time, times.start_ns,
                      times.start_ns + times.compute_ns + times.send_ns);
  const int64_t start = times.start_ns + stage.clock.shift();

  const std::string args =
      absl::StrFormat("{\"plan\":%d,\"epoch\":%d,\"rows\":%d,\"tokens\":%d,\"prefill tokens\":%d}",
                      record.plan, record.epoch, record.rows, record.tokens, record.prefill_tokens);
  int64_t at = start - times.wait_input_ns - times.wait_plan_ns;
  const auto slice = [&](const char* name, int64_t length) {
    // No slice begins before the last one's end, whatever the clocks say.
    const int64_t begin = std::max(at, stage.end);
    at += length;
    if (at <= begin) return;
    stage.end = at;
    absl::StrAppendFormat(lines,
                          ",\n{\"name\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%s,"
                          "\"dur\":%s,\"args\":%s}",
                          name, record.stage + 1, kTrack, Time(begin), Micros(at - begin), args);
  };
  slice("wait plan", times.wait_plan_ns);
  slice("wait input", times.wait_input_ns);
  slice("compute", times.compute_ns);
  slice("send", times.send_ns);

  if (record.stage + 1 != static_cast<int32_t>(stages_.size())) return;
  // From its sending to the last stage's answer. Plans overlap: each is a track of its own.
  for (const bool begins : {true, false}) {
    absl::StrAppendFormat(
        lines,
        ",\n{\"name\":\"plan\",\"cat\":\"plan\",\"ph\":\"%s\",\"id\":%d,\"pid\":%d,"
        "\"tid\":%d,\"ts\":%s,\"args\":%s}",
        begins ? "b" : "e", record.plan, kFrontEnd, kTrack,
        Time(begins ? event.submitted : event.time), args);
  }
}

void TraceTimeline::AppendGauges(const TraceEvent& event, std::string* lines) const {
  const EngineGauges& gauges = event.gauges;
  const auto counter = [&](const char* name, const std::string& args) {
    absl::StrAppendFormat(
        lines, ",\n{\"name\":\"%s\",\"ph\":\"C\",\"pid\":%d,\"tid\":%d,\"ts\":%s,\"args\":{%s}}",
        name, kFrontEnd, kTrack, Time(event.time), args);
  };
  counter("requests",
          absl::StrFormat("\"running\":%d,\"waiting\":%d", gauges.running, gauges.waiting));
  counter("KV blocks",
          absl::StrFormat("\"owned\":%d,\"cached\":%d", gauges.blocks_used, gauges.blocks_cached));
  counter("plans in flight", absl::StrFormat("\"plans\":%d", gauges.plans_in_flight));
}

void TraceTimeline::AppendInstant(const TraceEvent& event, std::string* lines) const {
  absl::StrAppendFormat(
      lines, ",\n{\"name\":%s,\"ph\":\"i\",\"s\":\"p\",\"pid\":%d,\"tid\":%d,\"ts\":%s}",
      Quoted(event.text), event.stage < 0 ? kFrontEnd : event.stage + 1, kTrack, Time(event.time));
}

}  // namespace penstock
