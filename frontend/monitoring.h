// Monitoring: all that a server shows of itself, made from its flags: metrics, the HTTP port that
// serves them with probes and the status page, and the trace file. Where none is wanted it costs
// the counting of metrics and nothing else.
// Thread rule: any thread; observer() is the engine's.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/sched/stage_types.h"
#include "frontend/http_server.h"
#include "frontend/metrics.h"
#include "frontend/observer_list.h"
#include "frontend/status_page.h"
#include "frontend/trace_writer.h"

namespace penstock {

struct MonitoringOptions {
  std::string metrics_listen = "127.0.0.1:8000";  // or "off"
  std::string metrics_port_file;                  // empty: none
  std::string trace_file;                         // empty: none
  int64_t trace_max_bytes = int64_t{1} << 30;
};

class Monitoring {
 public:
  // Opens the trace file and begins to listen, and says in the log where: before the model is
  // loaded, so that probes are answered while it is.
  // Errors: those of HttpServer::Start, TraceWriter::Open and ParseListenAddress.
  static absl::StatusOr<std::unique_ptr<Monitoring>> Start(const MonitoringOptions& options,
                                                           int32_t num_stages);
  ~Monitoring();  // ends the port and the trace; the engine must be gone
  Monitoring(const Monitoring&) = delete;
  Monitoring& operator=(const Monitoring&) = delete;

  // What to give to the engine. Lives as long as this object.
  EngineObserver& observer() { return observers_; }
  const Metrics& metrics() const { return metrics_; }

  // Once, when the model is loaded; in the order of the stages.
  void SetModel(const std::string& name, std::vector<StageInfo> stages);
  // Requests are taken from now on: /readyz says so, and from then on what the engine says.
  void SetReady() { metrics_.SetReady(); }
  void SetDraining() { metrics_.SetDraining(); }

  StatusReport Report() const;
  // Of the HTTP port, with the port that was taken; empty: there is none.
  std::string address() const;

 private:
  explicit Monitoring(int32_t num_stages);
  absl::Status Listen(const MonitoringOptions& options);

  const absl::Time started_;
  Metrics metrics_;
  std::unique_ptr<TraceWriter> trace_;  // may be null
  ObserverList observers_;

  mutable std::mutex mutex_;
  std::string model_;              // guarded by mutex_
  std::vector<StageInfo> stages_;  // guarded by mutex_

  std::unique_ptr<HttpServer> http_;  // may be null; last: its pages use the rest
};

}  // namespace penstock
