// TraceWriter: the timeline of the pipeline as a file, for ui.perfetto.dev. The engine thread puts
// events into a ring of fixed size and goes on; a thread of this object's own makes lines of them
// (trace_timeline.h) and writes the file. Where it cannot keep up, events are lost, counted, and
// the loss is told in the trace. The file is of use after a kill as well: its array may lack its
// end.
// Thread rule: the observer's calls as in engine_observer.h, from one thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "frontend/engine_observer.h"
#include "frontend/trace_timeline.h"

namespace penstock {

struct TraceOptions {
  std::string path;                      // --trace-file
  int64_t max_bytes = int64_t{1} << 30;  // --trace-max-mib; the file ends there. At least 64 KiB
  int64_t ring_events = 1 << 14;         // some 5 MiB
  absl::Duration period = absl::Milliseconds(100);  // between two looks into the ring
  // The clock of StageTimes, and the one of StageRecord.
  std::function<int64_t()> steady_ns;
  std::function<absl::Time()> now;
};

class TraceWriter final : public EngineObserver {
 public:
  // Empties the file, or makes it. `steady_ns` and `now`, if not set, are the machine's clocks.
  // Errors: INVALID_ARGUMENT if the file cannot be written.
  static absl::StatusOr<std::unique_ptr<TraceWriter>> Open(TraceOptions options,
                                                           int32_t num_stages);
  ~TraceWriter() override;  // writes what is in the ring, and the array's end
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  void OnStage(const StageRecord& record) override;
  void OnPreemption(RequestId id) override;
  void OnStageLost(int32_t stage, const absl::Status& status) override;
  void OnRecovered(absl::Duration time) override;
  void OnGauges(const EngineGauges& gauges) override;

 private:
  TraceWriter(TraceOptions options, int32_t num_stages, int fd);

  void Push(TraceEvent event);
  void Instant(int32_t stage, std::string text);
  void Run();
  void Drain();
  void Write(const std::string& lines);
  void WriteAll(const std::string& bytes);

  const TraceOptions options_;
  const int fd_;

  // One thread pushes and one takes. Both count up for ever; an event's place is its number modulo
  // the ring's size.
  std::vector<TraceEvent> ring_;
  std::atomic<uint64_t> pushed_ = 0;
  std::atomic<uint64_t> taken_ = 0;
  std::atomic<int64_t> lost_ = 0;

  // The writing thread's own.
  TraceTimeline timeline_;
  int64_t written_ = 0;
  int64_t told_lost_ = 0;
  bool full_ = false;  // or broken: nothing more is written

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace penstock
