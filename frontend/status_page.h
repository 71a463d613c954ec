// What the HTTP port says of the server beside its metrics: the answers to probes, and the status
// page for people (HTML) and programs (JSON). Pure functions of a report.
// Thread rule: any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/sched/stage_types.h"
#include "frontend/engine_observer.h"
#include "frontend/http_server.h"
#include "frontend/metrics.h"

namespace penstock {

struct StatusReport {
  EngineGauges gauges;  // with the server's state
  std::string model;    // empty while it loads
  absl::Duration uptime;
  std::vector<StageNumbers> numbers;  // one a stage
  std::vector<StageInfo> stages;      // the same; empty while they load
  std::string last_loss;              // why a stage was lost last; empty: none was
};

// 200 while the process can do anything at all; 503 once only another process can help: the
// pipeline has failed for good.
HttpResponse Liveness(const StatusReport& report);
// 200 if requests are answered, else 503; a sentence that says why.
HttpResponse Readiness(const StatusReport& report);
HttpResponse StatusHtml(const StatusReport& report);
// One object; a field once there stays.
HttpResponse StatusJson(const StatusReport& report);

}  // namespace penstock
