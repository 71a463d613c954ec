#include "frontend/monitoring.h"

#include <map>
#include <utility>

#include "absl/time/clock.h"
#include "core/base/log.h"
#include "frontend/port_file.h"

namespace penstock {

Monitoring::Monitoring(int32_t num_stages) : started_(absl::Now()), metrics_(num_stages) {
  observers_.Add(&metrics_);
}

Monitoring::~Monitoring() = default;

absl::StatusOr<std::unique_ptr<Monitoring>> Monitoring::Start(const MonitoringOptions& options,
                                                              int32_t num_stages) {
  std::unique_ptr<Monitoring> monitoring(new Monitoring(num_stages));
  if (!options.trace_file.empty()) {
    TraceOptions trace;
    trace.path = options.trace_file;
    trace.max_bytes = options.trace_max_bytes;
    PENSTOCK_ASSIGN_OR_RETURN(monitoring->trace_, TraceWriter::Open(trace, num_stages));
    monitoring->observers_.Add(monitoring->trace_.get());
    LogInfo(absl::StrCat("tracing into ", options.trace_file));
  }
  if (options.metrics_listen != "off") {
    PENSTOCK_RETURN_IF_ERROR(Annotate(monitoring->Listen(options), "--metrics-listen"));
  }
  return monitoring;
}

absl::Status Monitoring::Listen(const MonitoringOptions& options) {
  PENSTOCK_ASSIGN_OR_RETURN(const ListenAddress listen, ParseListenAddress(options.metrics_listen));
  const auto text = [](const char* type, std::string body) {
    return HttpResponse{200, type, std::move(body)};
  };
  std::map<std::string, HttpServer::Page> pages;
  pages["/"] = [this] { return StatusHtml(Report()); };
  pages["/status"] = [this] { return StatusJson(Report()); };
  pages["/livez"] = [this] { return Liveness(Report()); };
  pages["/readyz"] = [this] { return Readiness(Report()); };
  pages["/metrics"] = [this, text] {
    return text("text/plain; version=0.0.4; charset=utf-8", metrics_.Text());
  };
  HttpOptions http;
  http.listen = listen;
  PENSTOCK_ASSIGN_OR_RETURN(http_, HttpServer::Start(http, std::move(pages)));
  LogInfo(absl::StrCat("metrics, probes and status page on http://", address(), "/"));
  if (!options.metrics_port_file.empty()) {
    PENSTOCK_RETURN_IF_ERROR(WritePortFile(options.metrics_port_file, http_->address().port));
  }
  return absl::OkStatus();
}

void Monitoring::SetModel(const std::string& name, std::vector<StageInfo> stages) {
  int64_t blocks = stages.empty() ? 0 : stages.front().num_blocks;
  for (const StageInfo& stage : stages) blocks = std::min(blocks, stage.num_blocks);
  metrics_.SetModel(name, blocks);
  std::lock_guard<std::mutex> lock(mutex_);
  model_ = name;
  stages_ = std::move(stages);
}

StatusReport Monitoring::Report() const {
  StatusReport report;
  report.gauges = metrics_.gauges();
  report.uptime = absl::Now() - started_;
  report.last_loss = metrics_.last_loss();
  for (int32_t i = 0; i < metrics_.num_stages(); ++i) report.numbers.push_back(metrics_.stage(i));
  std::lock_guard<std::mutex> lock(mutex_);
  report.model = model_;
  report.stages = stages_;
  return report;
}

std::string Monitoring::address() const { return http_ ? http_->address().ToString() : ""; }

}  // namespace penstock
