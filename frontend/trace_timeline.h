// TraceTimeline: what the engine tells, as the lines of a trace in Chrome's JSON format, which
// Perfetto reads: a process for each stage with one track, on which the slices of its plans follow
// each other, and one for the front end with plans in flight, counters and events.
// Source of the format: "Trace Event Format", docs.google.com/document/d/
// 1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
//
// A stage measures by its own steady clock. Processes of one host share it; that of another host
// says nothing here and is shifted. What is known of the shift: a plan begins on the stage after it
// was sent, and its answer comes after its end. Where a shift of 0 agrees with that, the clocks are
// taken for one; else the stage's is shifted so that the answer that came fastest took no time,
// which is wrong by that time.
// Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "frontend/engine_observer.h"

namespace penstock {

// All times are nanoseconds of the front end's steady clock.
struct TraceEvent {
  enum class Kind : uint8_t { kStage, kGauges, kInstant };
  Kind kind = Kind::kInstant;
  int64_t time = 0;
  // kStage
  int64_t submitted = 0;
  StageRecord record = {};
  // kGauges
  EngineGauges gauges = {};
  // kInstant: on this stage; -1: on the front end
  int32_t stage = -1;
  std::string text = {};
};

// How much to add to a stage's clock.
class StageClock {
 public:
  // One plan: sent and answered by the front end's clock, begun and ended by the stage's.
  void Observe(int64_t submitted, int64_t received, int64_t start, int64_t end);
  // The stage may be another process now.
  void Forget() { *this = StageClock(); }
  int64_t shift() const;

 private:
  // The shift is at least `least` and at most `most`. Of two windows, so that old ones are
  // forgotten: clocks of two hosts drift apart by some microseconds a second.
  struct Window {
    int64_t least = std::numeric_limits<int64_t>::min();
    int64_t most = std::numeric_limits<int64_t>::max();
    int64_t count = 0;
  };
  Window now_;
  Window before_;
};

class TraceTimeline {
 public:
  // `origin` is time 0 of the trace.
  TraceTimeline(int32_t num_stages, int64_t origin);

  // Names of processes and tracks; comes first. Each line is one JSON object and begins with ",\n",
  // the file's first one with "[\n" instead.
  std::string Head() const;
  void Append(const TraceEvent& event, std::string* lines);

 private:
  struct Stage {
    StageClock clock;
    uint32_t epoch = 0;
    int64_t end = 0;  // of its last slice
  };

  void AppendPlan(const TraceEvent& event, std::string* lines);
  void AppendGauges(const TraceEvent& event, std::string* lines) const;
  void AppendInstant(const TraceEvent& event, std::string* lines) const;
  std::string Time(int64_t ns) const;

  const int64_t origin_;
  std::vector<Stage> stages_;
};

}  // namespace penstock
