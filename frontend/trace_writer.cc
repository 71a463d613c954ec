#include "frontend/trace_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "core/base/check.h"
#include "core/base/log.h"

namespace penstock {
namespace {

constexpr size_t kChunk = 1 << 20;  // bytes that are gathered before a write
constexpr const char* kEnd = "\n]\n";
// For the lines that say that the file is full.
constexpr int64_t kReserve = 512;

int64_t SteadyNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceWriter>> TraceWriter::Open(TraceOptions options,
                                                               int32_t num_stages) {
  if (!options.steady_ns) options.steady_ns = SteadyNs;
  if (!options.now) options.now = [] { return absl::Now(); };
  const int fd = open(options.path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot write the trace file ", options.path,
                                                   ": ", strerror(errno),
                                                   ": name a file in a writable folder"));
  }
  return std::unique_ptr<TraceWriter>(new TraceWriter(std::move(options), num_stages, fd));
}

TraceWriter::TraceWriter(TraceOptions options, int32_t num_stages, int fd)
    : options_(std::move(options)),
      fd_(fd),
      ring_(static_cast<size_t>(options_.ring_events)),
      timeline_(num_stages, options_.steady_ns()) {
  PENSTOCK_CHECK_GT(options_.ring_events, 0);
  PENSTOCK_CHECK_GE(options_.max_bytes, 1 << 16);
  thread_ = std::thread([this] { Run(); });
}

TraceWriter::~TraceWriter() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
  close(fd_);
}

void TraceWriter::Push(TraceEvent event) {
  const uint64_t number = pushed_.load(std::memory_order_relaxed);
  if (number - taken_.load(std::memory_order_acquire) == ring_.size()) {
    lost_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  ring_[number % ring_.size()] = std::move(event);
  pushed_.store(number + 1, std::memory_order_release);
}

void TraceWriter::Instant(int32_t stage, std::string text) {
  TraceEvent event;
  event.kind = TraceEvent::Kind::kInstant;
  event.time = options_.steady_ns();
  event.stage = stage;
  event.text = std::move(text);
  Push(std::move(event));
}

void TraceWriter::OnStage(const StageRecord& record) {
  // The wall clock may be set at any time, so only the few milliseconds up to now are taken from
  // it.
  const int64_t steady = options_.steady_ns();
  const absl::Time now = options_.now();
  TraceEvent event;
  event.kind = TraceEvent::Kind::kStage;
  event.time = steady - absl::ToInt64Nanoseconds(now - record.received);
  event.submitted = steady - absl::ToInt64Nanoseconds(now - record.submitted);
  event.record = record;
  Push(std::move(event));
}

void TraceWriter::OnPreemption(RequestId id) {
  Instant(-1, absl::StrCat("preempted: request ", id));
}

void TraceWriter::OnStageLost(int32_t stage, const absl::Status& status) {
  Instant(stage, absl::StrCat("lost: ", status.message()));
}

void TraceWriter::OnRecovered(absl::Duration time) {
  Instant(-1, absl::StrCat("recovered after ", absl::ToInt64Milliseconds(time), " ms"));
}

void TraceWriter::OnGauges(const EngineGauges& gauges) {
  TraceEvent event;
  event.kind = TraceEvent::Kind::kGauges;
  event.time = options_.steady_ns();
  event.gauges = gauges;
  Push(std::move(event));
}

void TraceWriter::Run() {
  Write(timeline_.Head());
  bool stop = false;
  while (!stop) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait_for(lock, absl::ToChronoNanoseconds(options_.period), [this] { return stop_; });
      stop = stop_;
    }
    Drain();
  }
  if (!full_) WriteAll(kEnd);
}

void TraceWriter::Drain() {
  std::string lines;
  const uint64_t end = pushed_.load(std::memory_order_acquire);
  for (uint64_t number = taken_.load(std::memory_order_relaxed); number != end; ++number) {
    const TraceEvent event = std::move(ring_[number % ring_.size()]);
    taken_.store(number + 1, std::memory_order_release);
    timeline_.Append(event, &lines);
    if (lines.size() < kChunk) continue;
    Write(lines);
    lines.clear();
  }
  const int64_t lost = lost_.load(std::memory_order_relaxed);
  if (lost > told_lost_) {
    TraceEvent event;
    event.time = options_.steady_ns();
    event.text = absl::StrCat(lost - told_lost_, " events were lost: the disk is too slow");
    timeline_.Append(event, &lines);
    told_lost_ = lost;
  }
  Write(lines);
}

void TraceWriter::Write(const std::string& lines) {
  if (full_ || lines.empty()) return;
  if (written_ + static_cast<int64_t>(lines.size()) + kReserve <= options_.max_bytes) {
    WriteAll(lines);
    return;
  }
  TraceEvent event;
  event.time = options_.steady_ns();
  event.text = "the trace ends here: --trace-max-mib is reached";
  std::string last;
  timeline_.Append(event, &last);
  WriteAll(last + kEnd);
  full_ = true;
  LogWarning(
      absl::StrCat("the trace file ", options_.path, " has reached --trace-max-mib: it is closed"));
}

void TraceWriter::WriteAll(const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = write(fd_, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      full_ = true;
      LogWarning(absl::StrCat("cannot write on into the trace file ", options_.path, ": ",
                              strerror(errno), ": it ends here, make room and start again"));
      return;
    }
    done += static_cast<size_t>(count);
  }
  written_ += static_cast<int64_t>(bytes.size());
}

}  // namespace penstock
