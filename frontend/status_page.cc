#include "frontend/status_page.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "core/base/kv_block.h"

namespace penstock {
namespace {

constexpr int kUnavailable = 503;
constexpr const char* kHead =
    "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Penstock</title>"
    "<meta http-equiv=\"refresh\" content=\"5\"><style>body{font:15px/1.5 sans-serif;margin:2em}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:right;"
    "border-bottom:1px solid #ccc}td:first-child,th:first-child{text-align:left}</style></head>"
    "<body>";

// For text between tags and in attributes: a model's name comes from its file.
std::string Escaped(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string Sentence(const StatusReport& report) {
  const std::string loss =
      report.last_loss.empty() ? "" : absl::StrCat("; lost: ", report.last_loss);
  switch (report.gauges.state) {
    case PipelineState::kLoading:
      return "loading: the model is not there yet";
    case PipelineState::kReady:
      return "ready";
    case PipelineState::kRecovering:
      return absl::StrCat("recovering: a stage is started again, answers go on after it", loss);
    case PipelineState::kFailed:
      return absl::StrCat("failed: the pipeline could not be brought back, restart the server",
                          loss);
    case PipelineState::kDraining:
      return "draining: the server ends, running answers may finish, new ones are refused";
  }
  return "";
}

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }
double Mib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

LayerRange Layers(const StageInfo& info) {
  return info.layers.count() > 0 ? info.layers : LayerRange{0, info.config.num_layers};
}

// Of the time in which a stage was known to do something or wait for it.
double BusyShare(const StageNumbers& numbers) {
  const int64_t all =
      numbers.compute_ns + numbers.send_ns + numbers.wait_input_ns + numbers.wait_plan_ns;
  return all == 0 ? 0 : static_cast<double>(numbers.compute_ns) / static_cast<double>(all);
}

std::string StageRow(size_t index, const StatusReport& report) {
  const StageNumbers& numbers = report.numbers[index];
  std::string row =
      absl::StrFormat("<tr><td>%d</td><td>%s</td>", index, numbers.up ? "up" : "down");
  if (index < report.stages.size()) {
    const StageInfo& info = report.stages[index];
    absl::StrAppendFormat(&row, "<td>%d&ndash;%d</td><td>%.0f</td><td>%.0f</td>", info.layers.first,
                          info.layers.last - 1, Mib(info.weight_bytes),
                          Mib(info.num_blocks * info.block_bytes));
  } else {
    row += "<td></td><td></td><td></td>";
  }
  absl::StrAppendFormat(
      &row, "<td>%d</td><td>%d</td><td>%d</td><td>%.1f</td><td>%.1f</td><td>%.1f</td><td>%.1f</td>",
      numbers.epoch, numbers.plans, numbers.tokens, Seconds(numbers.compute_ns),
      Seconds(numbers.wait_input_ns), Seconds(numbers.wait_plan_ns), Seconds(numbers.send_ns));
  absl::StrAppendFormat(&row, "<td>%.0f %%</td><td>%.0f</td><td>%d</td></tr>",
                        BusyShare(numbers) * 100, Mib(numbers.resident_bytes), numbers.losses);
  return row;
}

}  // namespace

HttpResponse Liveness(const StatusReport& report) {
  HttpResponse response;
  response.body = Sentence(report) + "\n";
  if (report.gauges.state == PipelineState::kFailed) response.status = kUnavailable;
  return response;
}

HttpResponse Readiness(const StatusReport& report) {
  HttpResponse response;
  response.body = Sentence(report) + "\n";
  if (report.gauges.state != PipelineState::kReady) response.status = kUnavailable;
  return response;
}

HttpResponse StatusHtml(const StatusReport& report) {
  const EngineGauges& gauges = report.gauges;
  HttpResponse response;
  response.content_type = "text/html; charset=utf-8";
  std::string& body = response.body;
  body = absl::StrCat(kHead, "<h1>Penstock</h1><p>", Escaped(Sentence(report)), "</p><table>");
  const auto line = [&body](const char* name, const std::string& value) {
    absl::StrAppend(&body, "<tr><td>", name, "</td><td>", Escaped(value), "</td></tr>");
  };
  line("model", report.model);
  line("version", PENSTOCK_VERSION);
  line("up for", absl::FormatDuration(absl::Trunc(report.uptime, absl::Seconds(1))));
  line("epoch", absl::StrCat(gauges.epoch));
  line("requests running", absl::StrCat(gauges.running));
  line("requests waiting", absl::StrCat(gauges.waiting));
  line("tokens waiting", absl::StrCat(gauges.waiting_tokens));
  line("plans in flight", absl::StrCat(gauges.plans_in_flight));
  line(absl::StrCat("KV blocks of ", kBlockSize, " tokens").c_str(),
       absl::StrCat(gauges.blocks_used, " owned, ", gauges.blocks_cached, " cached, ",
                    gauges.blocks_total, " in all"));
  if (!report.last_loss.empty()) line("last loss", report.last_loss);
  body +=
      "</table><table><tr><th>stage</th><th></th><th>layers</th><th>weights MiB</th><th>KV MiB</th>"
      "<th>epoch</th><th>plans</th><th>tokens</th><th>compute s</th><th>wait input s</th>"
      "<th>wait plan s</th><th>send s</th><th>busy</th><th>resident MiB</th><th>losses</th></tr>";
  for (size_t i = 0; i < report.numbers.size(); ++i) body += StageRow(i, report);
  body +=
      "</table><p><a href=\"metrics\">metrics</a> <a href=\"status\">status as JSON</a> "
      "<a href=\"livez\">livez</a> <a href=\"readyz\">readyz</a></p></body></html>\n";
  return response;
}

HttpResponse StatusJson(const StatusReport& report) {
  using Json = nlohmann::ordered_json;
  const EngineGauges& gauges = report.gauges;
  Json stages = Json::array();
  for (size_t i = 0; i < report.numbers.size(); ++i) {
    const StageNumbers& numbers = report.numbers[i];
    Json stage = {{"stage", i},
                  {"up", numbers.up},
                  {"epoch", numbers.epoch},
                  {"plans", numbers.plans},
                  {"tokens", numbers.tokens},
                  {"losses", numbers.losses},
                  {"compute_seconds", Seconds(numbers.compute_ns)},
                  {"wait_input_seconds", Seconds(numbers.wait_input_ns)},
                  {"wait_plan_seconds", Seconds(numbers.wait_plan_ns)},
                  {"send_seconds", Seconds(numbers.send_ns)},
                  {"busy", BusyShare(numbers)},
                  {"resident_bytes", numbers.resident_bytes},
                  {"cpu_seconds", Seconds(numbers.cpu_ns)}};
    if (i < report.stages.size()) {
      const StageInfo& info = report.stages[i];
      stage["first_layer"] = Layers(info).first;
      stage["last_layer"] = Layers(info).last - 1;
      stage["weight_bytes"] = info.weight_bytes;
      stage["kv_bytes"] = info.num_blocks * info.block_bytes;
      stage["load_seconds"] = Seconds(info.load_ns);
    }
    stages.push_back(std::move(stage));
  }
  const Json status = {{"state", PipelineStateName(gauges.state)},
                       {"sentence", Sentence(report)},
                       {"model", report.model},
                       {"version", PENSTOCK_VERSION},
                       {"uptime_seconds", absl::ToDoubleSeconds(report.uptime)},
                       {"epoch", gauges.epoch},
                       {"requests_running", gauges.running},
                       {"requests_waiting", gauges.waiting},
                       {"tokens_waiting", gauges.waiting_tokens},
                       {"plans_in_flight", gauges.plans_in_flight},
                       {"block_tokens", kBlockSize},
                       {"blocks_total", gauges.blocks_total},
                       {"blocks_owned", gauges.blocks_used},
                       {"blocks_cached", gauges.blocks_cached},
                       {"last_loss", report.last_loss},
                       {"stages", std::move(stages)}};
  HttpResponse response;
  response.content_type = "application/json";
  // What is not UTF-8, in a message of the system's, must not throw.
  response.body =
      status.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  return response;
}

}  // namespace penstock
